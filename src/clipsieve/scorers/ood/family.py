"""What the scorers of the `ood` family share: classes and prompts, geometry, batches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from clipsieve.clip.class_lists import Classes, Templates, class_prompt_set
from clipsieve.errors import UsageError
from clipsieve.scorers.base import Context, PairBatch, PromptSet, Scorer, TextMap, score_column
from clipsieve.scorers.ood import logits
from clipsieve.scorers.ood.geometry import (
    COSINE,
    EUCLIDEAN,
    GEOMETRIES,
    euclidean_similarities,
    lorentz_similarities,
)

#: Rows of a batch: N x K cosines of a thousand classes stay in the caches of a core.
BATCH_ROWS = 512

T = TypeVar("T")


class OodScorer(Scorer):
    """A score of each image against K classes; higher is more out of distribution.

    A row whose image has no embedding has no score.

    Attributes:
      least_classes: the method is undefined for fewer.
      geometries: in which the method is defined.
    """

    family = "ood"
    batch_rows = BATCH_ROWS
    least_classes = 1
    geometries: tuple[str, ...] = (COSINE,)

    def __init__(
        self,
        classes: Classes = "imagenet",
        templates: Templates = "simple",
        text_map: Mapping[str, str] | None = None,
        geometry: str = COSINE,
        curvature: float = 1.0,
    ) -> None:
        """Make a scorer for some classes.

        Args:
          classes: see `clipsieve.clip.class_lists`.
          templates: likewise.
          text_map: path and sha256 of a linear map of text embeddings, see `TextMap`.
          geometry: `cosine`; `euclidean` or `lorentz` for a checkpoint that was trained so.
          curvature: of `lorentz`.

        Raises:
          UsageError: for fewer classes than the method needs, or a geometry it is not defined in.
        """
        if geometry not in GEOMETRIES:
            raise UsageError(
                f"option geometry of scorer {self.name} must be one of {', '.join(GEOMETRIES)}; "
                f"got {geometry!r}"
            )
        if geometry not in self.geometries:
            raise UsageError(
                f"scorer {self.name} is defined on cosines, and the geometry is {geometry}; leave "
                "it out, and name scorers of logits, such as ood.msp,ood.max_logit,ood.energy"
            )
        check_number(self.name, "curvature", curvature)
        self._geometry, self._curvature = geometry, float(curvature)
        is_cosine = geometry == COSINE
        kinds: dict[str, Any] = {}
        if text_map is not None:
            kinds["text_map"] = TextMap(**text_map)
        if not is_cosine:
            self.columns = pa.schema([_of_similarities(field) for field in self.columns])
            kinds |= {"normalize_texts": False, "normalize": False}
        self.prompt_set = class_prompt_set(classes, templates, **kinds)
        count = len(self.prompt_set.names)
        if count < self.least_classes:
            raise UsageError(
                f"scorer {self.name} needs {self.least_classes} classes at least, and the list "
                f"has {count}; give another with --classes"
            )

    def parameters(self) -> Mapping[str, Any]:
        """Return the geometry; the prompts count by themselves."""
        if self._geometry == COSINE:
            return {}
        return {"geometry": self._geometry, "curvature": self._curvature}

    def prompts(self) -> tuple[PromptSet, ...]:
        """Return the prompts of the classes."""
        return (self.prompt_set,)

    def load(self, known: Mapping[str, np.ndarray], context: Context) -> Any:
        """Return the logit scale, for scorers that learn nothing."""
        return context.logit_scale

    def cosines(self, batch: PairBatch) -> np.ndarray:
        """Return (N, K) float64 cosines of images and classes; NaN rows without image."""
        return batch.image_cosines(self.prompt_set)

    def rows(self, batch: PairBatch) -> "ClassRows":
        """Return the similarities of the batch, and what is computed of them once."""
        return ClassRows(batch, self.prompt_set, self._geometry, self._curvature)


@dataclass(frozen=True, slots=True)
class ClassRows:
    """Similarities of the N images of a batch with K classes; computed once for all who ask.

    Attributes:
      batch: the pairs.
      prompt_set: the classes.
      geometry: of the similarities.
      curvature: likewise.
    """

    batch: PairBatch
    prompt_set: PromptSet
    geometry: str = COSINE
    curvature: float = 1.0

    def similarities(self) -> np.ndarray:
        """Return (N, K) float64: logits without the logit scale; NaN rows without image."""
        if self.geometry == COSINE:
            return self.batch.image_cosines(self.prompt_set)

        def make() -> np.ndarray:
            assert self.batch.image is not None
            images, texts = self.batch.image.vectors, self.batch.prototypes[self.prompt_set]
            if self.geometry == EUCLIDEAN:
                values = euclidean_similarities(images, texts)
            else:
                values = lorentz_similarities(images, texts, self.curvature)
            values[~self.batch.image.valid] = np.nan
            return values

        return self._shared("similarities", make)

    def top_two(self) -> logits.TopTwo:
        """Return the largest similarity of each row, and the others."""
        return self._shared("top two", lambda: logits.top_two(self.similarities()))

    def softmax(self, scale: float) -> logits.Softmax:
        """Return the softmax of `scale` times the similarities."""
        return self._shared(("softmax", scale), lambda: logits.softmax(self.top_two(), scale))

    def _shared(self, what: Any, make: Callable[[], T]) -> T:
        return self.batch.shared((what, self.prompt_set, self.geometry, self.curvature), make)


#: Ranges of columns where similarities are negative distances, not cosines.
_RANGES = {"ood_max_logit": "[0, inf)", "ood_margin": "(-inf, 0]"}


def _of_similarities(field: pa.Field) -> pa.Field:
    """Return a column with metadata that does not speak of cosines."""
    metadata = dict(field.metadata)
    doc = metadata[b"doc"].replace(b"cosines", b"similarities").replace(b"cosine", b"similarity")
    metadata[b"doc"] = doc
    if field.name in _RANGES:
        metadata[b"range"] = _RANGES[field.name].encode()
    return field.with_metadata(metadata)


def check_number(scorer: str, name: str, value: Any, least: float = 0.0) -> None:
    """Refuse an option that is no number above `least`.

    Raises:
      UsageError: names the scorer, the option and the value.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least < value < 1e300:
        raise UsageError(
            f"option {name} of scorer {scorer} must be a number above {least:g}, got {value!r}"
        )


def ood_column(name: str, doc: str, value_range: str, source: str) -> pa.Field:
    """Return a float32 column of which higher values are more out of distribution."""
    return score_column(name, doc, "higher is more out of distribution", value_range, source)
