"""NegLabel: an image against the classes, and against thousands of labels that are none of them.

Jiang et al., Negative Label Guided OOD Detection with Pretrained VLMs, ICLR 2024
(arXiv:2403.20078).  The labels are given; or mined from a list of words, section 3.1 of the paper:
those that are least like the classes.  The score, section 3.2, is

    mean over groups g of sigma(logsumexp(s n_g) - logsumexp(s c))

with cosines c of an image and the classes, n_g of the image and the labels of group g, and s the
logit scale.  It is one minus the paper's score, without the rounding of a difference from 1.

The authors deal labels to groups by a permutation that depends on the device.  Here it is the
stable argsort of raw 64-bit draws of PCG64, whose stream NumPy promises not to change.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.clip.class_lists import Classes, checked_texts
from clipsieve.definitions import shown
from clipsieve.errors import UsageError
from clipsieve.scorers.base import Context, PairBatch, PromptSet, TextMap
from clipsieve.scorers.ood.family import OodScorer, ood_column
from clipsieve.scorers.ood.geometry import COSINE
from clipsieve.scorers.ood.logits import logistic, logsumexp_rows
from clipsieve.scorers.options import check_ints

#: The authors' template 85, of classes and words.
TEMPLATE = "the nice {}"
#: Numbers of a block of cosines: 16 MB.
_BLOCK = 1 << 21
#: Quantiles are compared to so many decimals: the last bits of a matrix product depend on its
#: shape and on the machine, and are not to decide which words are taken.
_DECIMALS = 9


def candidate_quantiles(
    candidates: np.ndarray, positives: np.ndarray, quantile: float
) -> np.ndarray:
    """Return the (C,) quantile of each candidate's cosines with all positives, interpolated.

    Args:
      candidates: (C, D) float64 unit rows.
      positives: (K, D) float64 unit rows, K >= 1.
      quantile: in [0, 1]; linear between two neighbours, as `torch.quantile` has it.
    """
    step = max(1, _BLOCK // len(positives))
    blocks = [
        np.quantile(candidates[start : start + step] @ positives.T, quantile, axis=1)
        for start in range(0, len(candidates), step)
    ]
    return np.concatenate([np.empty(0), *blocks])


def mine(quantiles: np.ndarray, share: float) -> np.ndarray:
    """Return the positions of the int(share * C) lowest of C quantiles, ascending by quantile.

    Of quantiles that are the same to nine decimals, the first in the list is first.
    """
    order = np.argsort(np.round(quantiles, _DECIMALS), kind="stable")
    return order[: int(share * len(quantiles))]


def group_order(count: int, groups: int, seed: int | None) -> np.ndarray:
    """Return positions of labels, group after group, each of the same size.

    Args:
      count: of labels, M >= groups; the last M mod `groups` of them belong to no group.
      groups: how many, at least 1.
      seed: of the permutation; None: consecutive labels form a group.
    """
    kept = count - count % groups
    if seed is None:
        return np.arange(kept)
    return np.argsort(np.random.PCG64(seed).random_raw(kept), kind="stable")


def grouped_scores(
    images: np.ndarray,
    positive: np.ndarray,
    negatives: np.ndarray,
    groups: int,
    scale: float,
) -> np.ndarray:
    """Return the (N,) scores, in [0, 1]; higher is more out of distribution.

    Args:
      images: (N, D) float64 unit rows.
      positive: (N,) logsumexp over the classes of `scale` times the cosines; NaN gives NaN.
      negatives: (M, D) float64 unit rows in the order of `group_order`; M a multiple of `groups`.
      groups: how many, at least 1.
      scale: factor of the logits, above 0.
    """
    scores = np.empty(len(images))
    step = max(1, _BLOCK // len(negatives))
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        logits = images[rows] @ negatives.T
        logits *= scale
        sums = logsumexp_rows(logits.reshape(-1, len(negatives) // groups))
        against = sums.reshape(-1, groups) - positive[rows, None]
        scores[rows] = logistic(against).mean(axis=1)
    return scores


class NegLabel(OodScorer):
    """How likely one of many other labels is, against the classes.

    A class that is described by texts is described by them; others, and words, by `template`.
    """

    name = "ood.neglabel"
    columns = pa.schema(
        [
            ood_column(
                "ood_neglabel",
                "probability of the negative labels against the classes, mean over groups of them",
                "[0, 1]",
                "arXiv:2403.20078, sections 3.1 and 3.2",
            )
        ]
    )

    def __init__(
        self,
        classes: Classes = "imagenet",
        negatives: Sequence[str] | None = None,
        words: Sequence[str] | None = None,
        groups: int = 100,
        seed: int | None = 0,
        quantile: float = 0.95,
        share: float = 0.15,
        template: str = TEMPLATE,
        text_map: Mapping[str, str] | None = None,
        geometry: str = COSINE,
    ) -> None:
        """Make a scorer; it needs either `negatives` or `words`.

        Args:
          classes: see `clipsieve.clip.class_lists`.
          negatives: whole texts, taken as they are, as in the authors' file of labels.
          words: to mine labels from, each put into `template`.  Each counts once, and one that is
            the name of a class not at all; upper and lower case do not matter.
          groups: of labels.
          seed: of the permutation that deals labels to groups; None leaves them in their order,
            which is ascending by quantile for mined ones.
          quantile: of a word's cosines with the classes, by which words are ordered; in [0, 1].
          share: of the words that become labels, the lowest; in (0, 1], rounded down.
          template: for classes and words, with `{}`.
          text_map: path and sha256 of a linear map of text embeddings, see `TextMap`.
          geometry: `cosine`; the method is not defined in others.

        Raises:
          UsageError: without labels and words, or with both; if there are fewer labels than groups;
            for a value out of range, and another geometry.
        """
        if not isinstance(template, str):
            raise UsageError(
                f"option template of scorer {self.name} is {shown(template)}; give a text with {{}}"
            )
        super().__init__(classes, (template,), text_map, geometry)
        check_ints(self.name, {"groups": (groups, 1)})
        if seed is not None:
            check_ints(self.name, {"seed": (seed, 0)})
        _check_part(self.name, "quantile", quantile, 0.0 <= _number(quantile) <= 1.0, "in [0, 1]")
        _check_part(self.name, "share", share, 0.0 < _number(share) <= 1.0, "in (0, 1]")
        if (negatives is None) == (words is None):
            have = "has neither" if negatives is None else "has both"
            raise UsageError(
                f"scorer {self.name} needs option negatives or option words, and {have}; give one: "
                f"--option {self.name}.negatives=FILE with a text a line, or --option "
                f"{self.name}.words=FILE with a word a line, of which the least like the classes "
                "are taken"
            )
        self._groups, self._seed, self._template = groups, seed, template
        self._mining: tuple[float, float] | None = None
        if negatives is not None:
            texts = checked_texts(negatives, f"negatives of scorer {self.name}")
            count = len(texts)
        else:
            names = checked_texts(words, f"words of scorer {self.name}")
            texts = _candidates(names, self.prompt_set.names, template)
            count = int(share * len(texts))
            self._mining = float(quantile), float(share)
        if count < groups:
            mined = "" if words is None else f", {share:g} of {len(texts)} words"
            raise UsageError(
                f"scorer {self.name} has {count} negative labels{mined}, and {groups} groups of "
                f"them; give more labels, or fewer groups: --option {self.name}.groups=1"
            )
        self.label_set = _label_set(texts, None if text_map is None else TextMap(**text_map))

    def parameters(self) -> Mapping[str, Any]:
        """Return what decides labels and groups; the texts count by themselves."""
        mined = None
        if self._mining is not None:
            mined = {"quantile": self._mining[0], "share": self._mining[1]}
        grouping = {"groups": self._groups, "seed": self._seed, "permutation": "argsort of PCG64"}
        return {**super().parameters(), **grouping, "mined": mined}

    def prompts(self) -> tuple[PromptSet, ...]:
        """Return the prompts of the classes, and those of labels or words."""
        return (self.prompt_set, self.label_set)

    def load(self, known: Mapping[str, np.ndarray], context: Context) -> Any:
        """Return (M, D) float64 prototypes of the labels, group after group, and the scale."""
        labels = context.prototypes[self.label_set]
        if self._mining is not None:
            quantile, share = self._mining
            positives = context.prototypes[self.prompt_set]
            labels = labels[mine(candidate_quantiles(labels, positives, quantile), share)]
        return labels[group_order(len(labels), self._groups, self._seed)], context.logit_scale

    def score(self, batch: PairBatch, loaded: tuple[np.ndarray, float]) -> Mapping[str, np.ndarray]:
        """One column; NaN without image."""
        assert batch.image is not None
        labels, scale = loaded
        positive = logsumexp_rows(self.cosines(batch) * scale)
        scores = grouped_scores(batch.image.unit(), positive, labels, self._groups, scale)
        return {"ood_neglabel": scores}


def _candidates(words: Sequence[str], class_names: Sequence[str], template: str) -> tuple[str, ...]:
    """Return words that are no classes' names in the template, each once."""
    taken = {name.casefold() for name in class_names}
    distinct: dict[str, str] = {}
    for word in words:
        distinct.setdefault(word.casefold(), word)
    kept = [word for key, word in distinct.items() if key not in taken]
    return tuple(template.replace("{}", word) for word in kept)


@lru_cache(maxsize=4)
def _label_set(texts: tuple[str, ...], text_map: TextMap | None) -> PromptSet:
    return PromptSet(texts, tuple((text,) for text in texts), text_map=text_map)


def _number(value: Any) -> float:
    """Return a number as it is, and NaN for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else float("nan")


def _check_part(scorer: str, name: str, value: Any, is_right: bool, expected: str) -> None:
    if not is_right:
        raise UsageError(
            f"option {name} of scorer {scorer} must be a number {expected}, got {shown(value)}"
        )
