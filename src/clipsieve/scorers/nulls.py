"""Values that are not floats, some of which are missing."""

import numpy as np


def with_nulls(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return values as objects, None, which is stored as NULL, where one is not valid.

    Args:
      values: (N,) of any type.
      valid: (N,) bool.
    """
    objects = values.astype(object)
    objects[~valid] = None
    return np.asarray(objects)
