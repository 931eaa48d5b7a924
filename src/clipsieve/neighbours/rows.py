"""Arrays of vectors as they come in: checked, and on the device that searches."""

import numpy as np
import torch

from clipsieve.errors import UsageError
from clipsieve.neighbours.metric import LARGEST


def checked_array(array: np.ndarray, what: str, dim: int | None = None) -> np.ndarray:
    """The array, if it is a table of vectors of a format and width that can be searched.

    Args:
      array: what was given.
      what: what its rows are, for the message.
      dim: number of components that they must have.

    Returns:
      (N, D) float16 or float32.

    Raises:
      UsageError: for another shape, number format, or number of components.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        shape = getattr(array, "shape", type(array).__name__)
        raise UsageError(
            f"{what} vectors must be an array of shape (rows, components), got {shape}"
        )
    if array.dtype not in (np.dtype(np.float16), np.dtype(np.float32)):
        raise UsageError(
            f"{what} vectors must be float16 or float32, got {array.dtype}; convert them first"
        )
    if dim is not None and array.shape[1] != dim:
        raise UsageError(
            f"{what} vectors of shape {array.shape} do not fit a reference of {dim} components; "
            "both must come from one model"
        )
    return array


def as_tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array on `device`; on a CPU without a copy where that can be."""
    array = np.ascontiguousarray(array)
    try:
        # Unlike from_numpy this takes arrays that cannot be written to, such as memory maps.
        tensor = torch.utils.dlpack.from_dlpack(array)
    except BufferError:
        tensor = torch.from_numpy(array.copy())
    return tensor.to(device)


def check_values(rows: torch.Tensor, first: int, what: str) -> None:
    """Refuse vectors that no distance is defined for.

    Args:
      rows: (N, D).
      first: number of the first row, for the message.
      what: what the rows are, for the message.

    Raises:
      UsageError: if a component is NaN, infinite or beyond `LARGEST`, with the first such row.
    """
    if rows.numel() == 0:
        return
    # In float16 LARGEST would be infinite.  NaN compares as false.
    low, high = (end.float() for end in rows.aminmax())
    if bool((low >= -LARGEST) & (high <= LARGEST)):
        return
    bad = ~(rows.float().abs() <= LARGEST)
    row = int(bad.any(1).nonzero()[0, 0])
    value = float(rows[row][bad[row]][0])
    raise UsageError(
        f"{what} row {first + row} holds {value}, but vectors must be finite and at most "
        f"{LARGEST:g} in magnitude; leave such rows out"
    )


def own_rows(own: np.ndarray | None, queries: int, first: int, size: int) -> torch.Tensor:
    """Which rows of this reference each query must not find.

    Args:
      own: (N,) or (N, E) numbers of reference rows, -1 for none; None for none at all.
      queries: N.
      first: number of the first reference row.
      size: number of reference rows.

    Returns:
      (N, E) int64 positions in this reference, -1 for rows outside of it.

    Raises:
      UsageError: for another shape or format, or a number below -1.
    """
    if own is None:
        return torch.empty(queries, 0, dtype=torch.int64)
    own = np.asarray(own)
    if own.ndim not in (1, 2) or len(own) != queries or own.dtype.kind not in "iu":
        raise UsageError(
            f"own must be integers of shape ({queries},) or ({queries}, E), one row a query, "
            f"got {own.dtype} of shape {own.shape}"
        )
    own = (own[:, None] if own.ndim == 1 else own).astype(np.int64)
    if own.size and own.min() < -1:
        raise UsageError(f"own holds {own.min()}; use numbers of reference rows, or -1 for none")
    return torch.from_numpy(np.where((own >= first) & (own < first + size), own - first, -1))
