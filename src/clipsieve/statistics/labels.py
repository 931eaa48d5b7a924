"""Labels of rows as classes."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any


class Labels:
    """Classes by what a column of labels says."""

    NONE, UNKNOWN = -1, -2

    def __init__(self, names: Sequence[str]) -> None:
        """Take the names of K classes; of two equal ones the first counts."""
        self._count = len(names)
        self._numbers = {name: at for at, name in reversed(list(enumerate(names)))}

    def class_of(self, label: Any) -> int:
        """Return the class that a label names: a name, or a whole number from 0 to K - 1.

        Returns:
          Position of the class; `NONE` for None or NaN, `UNKNOWN` for anything else.
        """
        if label is None or (isinstance(label, float) and math.isnan(label)):
            return self.NONE
        if isinstance(label, str):
            return self._numbers.get(label, self.UNKNOWN)
        is_number = isinstance(label, Real) and not isinstance(label, bool)
        if is_number and label == label // 1 and 0 <= label < self._count:
            return int(label)
        return self.UNKNOWN
