"""What the scorers share that learn from the moments of unit vectors by class."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Arrays, Context, Embedded, PairBatch
from clipsieve.scorers.ood.family import OodScorer
from clipsieve.statistics.moments import ClassMoments, UnitMoments

#: Name of the moments among the sums.
MOMENTS = "moments"


class MomentsScorer(OodScorer):
    """A score that is learnt from `UnitMoments`; scorers with the same classes share one sum."""

    def __init__(self, labels: str | None = None, **classes: Any) -> None:
        """Make a scorer.

        Args:
          labels: source column with the true class of each row, by name or number; None takes the
            zero-shot class.
          **classes: see `OodScorer`.

        Raises:
          UsageError: for a value out of range.
        """
        super().__init__(**classes)
        if labels is not None and (not isinstance(labels, str) or not labels):
            raise UsageError(
                f"option labels of scorer {self.name} must be the name of a column of the source, "
                f"got {labels!r}"
            )
        self._labels = labels

    def parameters(self) -> Mapping[str, Any]:
        """All options."""
        return {**super().parameters(), "labels": self._labels}

    def moments(self) -> UnitMoments:
        """Return the statistic to learn from."""
        return UnitMoments(self.prompt_set, self._labels)

    def load(self, known: Arrays, context: Context) -> Any:
        """Return what was learnt."""
        return known

    def recorded_counts(self, moments: ClassMoments) -> dict[str, np.ndarray]:
        """Return what is recorded of the rows: `counts` (K,), `unlabelled`, `rows_per_component`.

        Raises:
          UsageError: if there are fewer rows than components.
        """
        dim = moments.class_sums.shape[1]
        if moments.rows < dim:
            labels, cure = "an image", "learn on a larger folder with --learn-on"
            if self._labels is not None:
                labels = (
                    f"an image and a class in column {self._labels!r} ({moments.unlabelled} with "
                    "an image have none)"
                )
                cure = f"give {self._labels!r} names or numbers of the classes, {cure}"
            raise UsageError(
                f"scorer {self.name} learns of {moments.rows} rows with {labels}, and vectors of "
                f"{dim} components need {dim} rows at least; {cure}, or name a scorer that "
                "learns nothing, such as ood.mcm"
            )
        return {
            "counts": moments.counts,
            "unlabelled": np.array(moments.unlabelled),
            "rows_per_component": np.array(moments.rows / dim),
        }


def image_of(batch: PairBatch) -> Embedded:
    """Return the images of a batch, whose embeddings every scorer of the family reads."""
    assert batch.image is not None
    return batch.image
