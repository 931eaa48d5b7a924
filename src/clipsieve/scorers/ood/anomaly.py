"""WinCLIP's image-level score: is a photo one of a flawless object, or of a damaged one?

Jeong et al., WinCLIP, CVPR 2023 (arXiv:2303.14814), section 4.1.  Each side is described by many
prompts, a state of the object in a template; its prototype is the mean of the prompts' vectors as
the model gives them, normalised after the mean only.

The prompts are 7 normal and 4 abnormal states in 22 templates, as in the paper's appendix: 11 ways
to speak of a photo, with each article.  (anomalib's list of them has 21 lines, one of which is
there twice, and lacks two.)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.clip.class_lists import checked_texts
from clipsieve.definitions import shown
from clipsieve.errors import UsageError
from clipsieve.scorers.base import Context, PairBatch, PromptSet, Scorer, TextMap
from clipsieve.scorers.ood.family import BATCH_ROWS, check_number, ood_column
from clipsieve.scorers.ood.geometry import COSINE
from clipsieve.scorers.ood.logits import logistic

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ABNORMAL_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
_ARTICLES = ("a", "the")
#: `*` stands for the article.
_PHOTOS = (
    "a cropped photo of * {}.",
    "a close-up photo of * {}.",
    "a bright photo of * {}.",
    "a dark photo of * {}.",
    "a jpeg corrupted photo of * {}.",
    "a blurry photo of * {}.",
    "a photo of * {}.",
    "a photo of * small {}.",
    "a photo of * large {}.",
    "a photo of * {} for visual inspection.",
    "a photo of * {} for anomaly detection.",
)
PHOTO_TEMPLATES = tuple(photo.replace("*", article) for photo in _PHOTOS for article in _ARTICLES)
#: As in anomalib.  The order of images does not depend on it.
DEFAULT_TAU = 0.07

_SOURCE = "arXiv:2303.14814, section 4.1"


def state_prompts(states: Sequence[str], object_name: str) -> tuple[str, ...]:
    """Return an object in each state, in each of the 22 templates.

    >>> state_prompts(ABNORMAL_STATES, "bottle")[:2]
    ('a cropped photo of a damaged bottle.', 'a cropped photo of the damaged bottle.')
    """
    named = [state.replace("{}", object_name) for state in states]
    return tuple(template.replace("{}", name) for name in named for template in PHOTO_TEMPLATES)


class TwoPromptAnomaly(Scorer):
    """How much more an image is like the abnormal prompts than like the normal ones.

    It needs no classes.  Equal prototypes give a margin of 0 and a score of 0.5.
    """

    name, family, batch_rows = "ood.anomaly", "ood", BATCH_ROWS
    columns = pa.schema(
        [
            ood_column(
                "ood_anomaly", "logistic function of ood_anomaly_margin / tau", "[0, 1]", _SOURCE
            ),
            ood_column(
                "ood_anomaly_margin",
                "cosine with the abnormal prompts minus cosine with the normal ones",
                "[-2, 2]",
                _SOURCE,
            ),
        ]
    )

    def __init__(
        self,
        object: str = "object",
        normal: Sequence[str] | None = None,
        abnormal: Sequence[str] | None = None,
        tau: float = DEFAULT_TAU,
        text_map: Mapping[str, str] | None = None,
        geometry: str = COSINE,
    ) -> None:
        """Make a scorer for one kind of object.

        Args:
          object: what the images show, in WinCLIP's prompts.
          normal: whole texts to take the place of WinCLIP's prompts of a flawless object.
          abnormal: likewise of a damaged one.
          tau: temperature, above 0.
          text_map: path and sha256 of a linear map of text embeddings, see `TextMap`.
          geometry: `cosine`; the method is not defined in others.

        Raises:
          UsageError: for an object or a text that is blank or no text, a list without a text, a
            temperature that is not above 0, and another geometry.
        """
        if not isinstance(object, str):
            raise UsageError(f"option object of scorer {self.name} is {shown(object)}; give a text")
        (name,) = checked_texts([object], f"object of scorer {self.name}")
        check_number(self.name, "tau", tau)
        if geometry != COSINE:
            raise UsageError(
                f"scorer {self.name} is defined on cosines, and the geometry is {geometry!r}; "
                "leave the scorer out"
            )
        self._tau = float(tau)
        sides = (
            _side(self.name, "normal", normal, NORMAL_STATES, name),
            _side(self.name, "abnormal", abnormal, ABNORMAL_STATES, name),
        )
        mapped = None if text_map is None else TextMap(**text_map)
        self.prompt_set = PromptSet(
            ("normal", "abnormal"), sides, normalize_texts=False, text_map=mapped
        )

    def parameters(self) -> Mapping[str, Any]:
        """Return the temperature; the prompts count by themselves."""
        return {"tau": self._tau}

    def prompts(self) -> tuple[PromptSet, ...]:
        """Return the two sides."""
        return (self.prompt_set,)

    def load(self, known: Mapping[str, np.ndarray], context: Context) -> Any:
        """Return nothing: all is in the prototypes."""
        return None

    def score(self, batch: PairBatch, loaded: Any) -> Mapping[str, np.ndarray]:
        """Two columns; NaN without image."""
        cosines = batch.image_cosines(self.prompt_set)
        margin = cosines[:, 1] - cosines[:, 0]
        return {"ood_anomaly": logistic(margin / self._tau), "ood_anomaly_margin": margin}


def _side(
    scorer: str, option: str, texts: Sequence[str] | None, states: Sequence[str], name: str
) -> tuple[str, ...]:
    if texts is None:
        return state_prompts(states, name)
    return checked_texts(texts, f"{option} of scorer {scorer}")
