"""The two distances, defined to the last bit, and the vectors they are defined for.

Euclidean: `float32(sqrt(S))`.  Cosine: `float32(S / 2)` of unit vectors, which is `1 - cos` without
its cancellation: never negative, and zero for equal vectors.  S is the sum of squared differences,
each difference, square and sum rounded to float64, summed by halves: the second half of the
squares is added to the first, element by element, until one is left (of an odd number the
middle one waits).  Every step is one IEEE operation on each element, so all devices agree.

Unit vectors are `float32(x / sqrt(S))`, with S the same sum of the squares of x, divided in
float64.
"""

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from clipsieve.errors import UsageError

if TYPE_CHECKING:
    import torch

Metric = Literal["euclidean", "cosine"]

#: Larger numbers in a vector are refused: sums of their squares are not safe in every format.
LARGEST = 1e30


def check_metric(metric: str) -> None:
    """Refuse an unknown metric.

    Raises:
      UsageError: if it is none of `Metric`.
    """
    if metric not in get_args(Metric):
        raise UsageError(f"metric {metric!r} is not known; choose {', '.join(get_args(Metric))}")


def check_vectors(vectors: np.ndarray, name: str, dim: int | None = None) -> None:
    """Refuse what is not a table of vectors of a format and width that can be searched.

    Args:
      vectors: should be (N, D) float16 or float32.
      name: what they are, for the message.
      dim: D, if it is known.

    Raises:
      UsageError: for another shape, number format, or number of components.
    """
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2:
        shape = getattr(vectors, "shape", type(vectors).__name__)
        raise UsageError(
            f"{name} vectors must be an array of shape (rows, components), got {shape}"
        )
    if vectors.dtype not in (np.dtype(np.float16), np.dtype(np.float32)):
        raise UsageError(
            f"{name} vectors must be float16 or float32, got {vectors.dtype}; convert them first"
        )
    if dim is not None and vectors.shape[1] != dim:
        raise UsageError(
            f"{name} vectors of shape {vectors.shape} do not fit a reference of {dim} components; "
            "both must come from one model"
        )


def prepare_vectors(
    vectors: "torch.Tensor", metric: Metric, first: int, name: str
) -> "torch.Tensor":
    """Check the values of vectors and, for `cosine`, bring them to unit length.

    Args:
      vectors: (N, D) float16 or float32.
      metric: of the distances.
      first: number of the first row, for messages.
      name: what they are, for messages.

    Returns:
      (N, D): the vectors themselves, or float32 unit vectors.

    Raises:
      UsageError: for a component that is NaN, infinite or beyond `LARGEST`, or, with cosine, a
        zero vector; with the first such row.
    """
    if vectors.numel():
        # In float16 LARGEST would be infinite.  NaN compares as false.
        low, high = (end.float() for end in vectors.aminmax())
        if not bool((low >= -LARGEST) & (high <= LARGEST)):
            bad = ~(vectors.float().abs() <= LARGEST)
            row = int(bad.any(1).nonzero()[0, 0])
            raise UsageError(
                f"{name} row {first + row} holds {float(vectors[row][bad[row]][0])}, but vectors "
                f"must be finite and at most {LARGEST:g} in magnitude; leave such rows out"
            )
    if metric == "euclidean":
        return vectors
    wide = vectors.double()
    length = sum_by_halves(wide.square()).sqrt_()
    if bool((length == 0).any()):
        row = first + int((length == 0).nonzero()[0, 0])
        raise UsageError(
            f"{name} row {row} is a zero vector, which has no cosine; leave such rows out"
        )
    return wide.div_(length[:, None]).float()


def sum_by_halves(values: "torch.Tensor") -> "torch.Tensor":
    """Sum over the last axis in the defined order; overwrites `values`.

    >>> import torch
    >>> sum_by_halves(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)).tolist()
    [15.0]
    """
    width = values.shape[-1]
    if width == 0:
        return values.new_zeros(values.shape[:-1])
    while width > 1:
        half = width // 2
        values[..., :half] += values[..., width - half : width]
        width -= half
    return values[..., 0]


def defined_distances(differences: "torch.Tensor", metric: Metric) -> "torch.Tensor":
    """Compute distances of pairs operation by operation as defined above.

    Args:
      differences: (P, D) float64, query less row or the other way round; overwritten.
      metric: of the distances; with `cosine`, differences are of unit vectors.

    Returns:
      (P,) float32.
    """
    total = sum_by_halves(differences.square_())
    return (total.sqrt() if metric == "euclidean" else total * 0.5).float()


def round_lengths(
    lengths: "torch.Tensor", dim: int, metric: Metric
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Turn lengths that were summed in any order into distances.

    Args:
      lengths: (P,) float64, square roots of sums of `dim` squares.
      dim: D.
      metric: of the distances.

    Returns:
      (P,) float32, and int64 positions of those that lie so close to the edge between two float32
      numbers that the order of summation could matter.
    """
    if metric == "cosine":
        lengths = lengths.square().mul_(0.5)
    doubt = (2 * dim + 32) * 2.0**-53
    low, high = (lengths * (1 - doubt)).float(), (lengths * (1 + doubt)).float()
    return low, (low != high).nonzero().squeeze(1)
