"""CLIPScore and RefCLIPScore (Hessel et al., EMNLP 2021, section 3), and the raw cosine.

Two conventions are in use for "the CLIP score" of a pair, and they differ by more than scale:

* LAION and DataComp: the plain cosine of image and caption, no prompt, no clipping.  This is
  `clip_similarity`.
* The paper: `CLIP-S(c, v) = w * max(cos(c, v), 0)`, w = 2.5, with the prompt "A photo depicts "
  before the caption.  `clip_score` applies w and the clipping to the captions of its own
  configuration: without the prompt in family `clip`, with it in family `clip_depicts`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.scorers.base import (
    Embedded,
    Input,
    PairBatch,
    References,
    Scorer,
    score_column,
)

PAPER = "arXiv:2104.08718, section 3"
PAPER_PROMPT = "A photo depicts "
PAPER_WEIGHT = 2.5


def cosine(image: Embedded, text: Embedded) -> np.ndarray:
    """Cosine of each image with its text.

    Args:
      image: N vectors of D components.
      text: N vectors of D components.

    Returns:
      (N,) float64 in [-1, 1]; NaN where either is missing or a zero vector.
    """
    value = np.einsum("nd,nd->n", image.unit(), text.unit())
    defined = image.valid & text.valid & image.vectors.any(axis=1) & text.vectors.any(axis=1)
    return np.where(defined, np.clip(value, -1.0, 1.0), np.nan)


def clip_score(similarity: np.ndarray, weight: float = PAPER_WEIGHT) -> np.ndarray:
    """CLIP-S: `weight * max(similarity, 0)`.

    Args:
      similarity: (N,) cosines; NaN stays NaN.
      weight: w of the paper, which rescales the usual range to about [0, 1].

    Returns:
      (N,) in [0, weight].

    >>> clip_score(np.array([0.3, -0.2])).tolist()
    [0.75, 0.0]
    """
    score: np.ndarray = weight * np.maximum(similarity, 0.0)
    return score


def reference_similarity(text: Embedded, references: References) -> np.ndarray:
    """Highest cosine of each caption with any of its references.

    Args:
      text: N caption vectors.
      references: their reference captions.

    Returns:
      (N,) float64 in [-1, 1]; NaN where the caption is missing or has no valid reference.
    """
    owner = np.repeat(np.arange(len(text.valid)), np.diff(references.offsets))
    owned = Embedded(text.vectors[owner], text.valid[owner])
    each = cosine(owned, references.embedded)
    best = np.full(len(text.valid), -np.inf)
    present = ~np.isnan(each)
    np.maximum.at(best, owner[present], each[present])
    return np.where(np.isneginf(best), np.nan, best)


def ref_clip_score(score: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """RefCLIP-S: the harmonic mean of CLIP-S and the best reference similarity.

    `2 * score * R / (score + R)` with `R = max(reference, 0)`.  The paper clips R at zero, the
    authors' code does not; the two differ only where R < 0, where the code's value is negative
    or undefined.  Here it is 0 there, and 0 where both are 0.

    Args:
      score: (N,) CLIP-S, weight included, as in the authors' code.
      reference: (N,) highest cosine with a reference.

    Returns:
      (N,), at least 0; NaN where either is NaN.

    >>> ref_clip_score(np.array([0.75, 0.0]), np.array([0.75, -0.1])).tolist()
    [0.75, 0.0]
    """
    clipped = np.maximum(reference, 0.0)
    total = score + clipped
    mean = np.zeros_like(total)
    np.divide(2 * score * clipped, total, out=mean, where=total > 0)
    return np.where(np.isnan(total), np.nan, mean)


def _column(name: str, doc: str, value_range: str, source: str) -> pa.Field:
    return score_column(name, doc, "higher is better", value_range, source)


class ClipScore(Scorer):
    """Cosine and CLIP-S of each pair, with one prompt."""

    needs = frozenset({Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING})

    def __init__(self, name: str, prompt: str, suffix: str) -> None:
        """Name the scorer; its columns end in `suffix`, and `prompt` precedes each caption."""
        self.name = self.family = name
        self.prompt = prompt
        text = f"{prompt!r} + caption" if prompt else "caption"
        similarity, score = f"clip_similarity{suffix}", f"clip_score{suffix}"
        self.columns = pa.schema(
            [
                _column(similarity, f"cosine of image and {text}", "[-1, 1]", "LAION, DataComp"),
                _column(score, f"2.5 * max(cosine, 0) of image and {text}", "[0, 2.5]", PAPER),
            ]
        )

    def parameters(self) -> Mapping[str, Any]:
        """Prompt and weight."""
        return {"prompt": self.prompt, "weight": PAPER_WEIGHT}

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Both columns; NaN where image or caption is missing."""
        assert batch.image is not None
        similarity = cosine(batch.image, batch.texts[self.prompt])
        return dict(zip(self.columns.names, (similarity, clip_score(similarity)), strict=True))


def clip_score_scorer() -> ClipScore:
    """Make the scorer of captions as they are."""
    return ClipScore("clip", "", "")


def depicts_scorer() -> ClipScore:
    """Make the scorer with the paper's prompt."""
    return ClipScore("clip_depicts", PAPER_PROMPT, "_depicts")


class RefClipScore(Scorer):
    """RefCLIP-S against reference captions; prompt and weight as in the paper."""

    name = family = "clip_ref"
    needs = frozenset({Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING, Input.REFERENCE_EMBEDDINGS})
    prompt = PAPER_PROMPT
    columns = pa.schema(
        [
            _column(
                "clip_reference_similarity", "highest cosine with a reference", "[-1, 1]", PAPER
            ),
            _column("ref_clip_score", "harmonic mean of CLIP-S and references", "[0, 2.5]", PAPER),
        ]
    )

    def parameters(self) -> Mapping[str, Any]:
        """Prompt and weight."""
        return {"prompt": self.prompt, "weight": PAPER_WEIGHT}

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Both columns; NaN without caption or any reference, the score also without image."""
        assert batch.image is not None
        text = batch.texts[self.prompt]
        score = clip_score(cosine(batch.image, text))
        reference = reference_similarity(text, batch.references[self.prompt])
        return {
            "clip_reference_similarity": reference,
            "ref_clip_score": ref_clip_score(score, reference),
        }
