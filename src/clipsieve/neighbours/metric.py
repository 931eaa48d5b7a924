"""The distances, to the last bit: what the result of a search is defined by.

Euclidean: `float32(sqrt(S))`.  Cosine: `float32(S / 2)` of unit vectors, which is `1 - cos` without
its cancellation: never negative, and zero for equal vectors.  S is the sum of squared differences,
each difference, square and sum rounded to float64, summed by halves: the second half of the
squares is added to the first, element by element, until one is left (of an odd number the
middle one waits).  Every step is one IEEE operation on each element, so all devices agree.

Unit vectors are `float32(x / sqrt(S))`, with S the same sum of the squares of x, divided in
float64.
"""

from typing import Literal, get_args

import torch

from clipsieve.errors import UsageError

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


def sum_by_halves(values: torch.Tensor) -> torch.Tensor:
    """Sums over the last axis in the defined order; overwrites `values`.

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


def unit_rows(rows: torch.Tensor, first: int, what: str) -> torch.Tensor:
    """Rows of length 1, as defined above.

    Args:
      rows: (N, D) float16 or float32.
      first: number of the first row, for the message.
      what: what the rows are, for the message.

    Returns:
      (N, D) float32.

    Raises:
      UsageError: for a zero vector, which has no direction.
    """
    wide = rows.double()
    length = sum_by_halves(wide.square()).sqrt_()
    if bool((length == 0).any()):
        row = first + int((length == 0).nonzero()[0, 0])
        raise UsageError(
            f"{what} row {row} is a zero vector, which has no cosine; leave such rows out"
        )
    return wide.div_(length[:, None]).float()


def defined_distances(differences: torch.Tensor, metric: Metric) -> torch.Tensor:
    """Distances of pairs, operation by operation as defined above.

    Args:
      differences: (P, D) float64, query less row or the other way round; overwritten.
      metric: of the distances; with `cosine`, differences are of unit vectors.

    Returns:
      (P,) float32.
    """
    total = sum_by_halves(differences.square_())
    return (total.sqrt() if metric == "euclidean" else total * 0.5).float()


def round_lengths(
    lengths: torch.Tensor, dim: int, metric: Metric
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances from lengths that were summed in any order.

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
