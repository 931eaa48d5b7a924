"""What the scorers of the `ood` family share: classes and prompts, geometry, batches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.clip.class_lists import Classes, Templates, class_prompt_set
from clipsieve.errors import UsageError
from clipsieve.scorers.base import Context, PairBatch, PromptSet, Scorer, score_column

#: Rows of a batch: N x K cosines of a thousand classes stay in the caches of a core.
BATCH_ROWS = 512


class OodScorer(Scorer):
    """A score of each image against K classes; higher is more out of distribution.

    A row whose image has no embedding has no score.

    Attributes:
      least_classes: the method is undefined for fewer.
    """

    family = "ood"
    batch_rows = BATCH_ROWS
    least_classes = 1

    def __init__(self, classes: Classes = "imagenet", templates: Templates = "simple") -> None:
        """Make a scorer for some classes.

        Args:
          classes: see `clipsieve.clip.class_lists`.
          templates: likewise.

        Raises:
          UsageError: for fewer classes than the method needs.
        """
        self.prompt_set = class_prompt_set(classes, templates)
        count = len(self.prompt_set.names)
        if count < self.least_classes:
            raise UsageError(
                f"scorer {self.name} needs {self.least_classes} classes at least, and the list "
                f"has {count}; give another with --classes"
            )

    def prompts(self) -> tuple[PromptSet, ...]:
        """Return the prompts of the classes."""
        return (self.prompt_set,)

    def cosines(self, batch: PairBatch) -> np.ndarray:
        """Return (N, K) float64 cosines of images and classes; NaN rows without image."""
        return batch.image_cosines(self.prompt_set)

    def load(self, known: Mapping[str, np.ndarray], context: Context) -> Any:
        """Return the logit scale, for scorers that learn nothing."""
        return context.logit_scale


def ood_column(name: str, doc: str, value_range: str, source: str) -> pa.Field:
    """Return a float32 column of which higher values are more out of distribution."""
    return score_column(name, doc, "higher is more out of distribution", value_range, source)
