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


def pair_distances(queries: torch.Tensor, rows: torch.Tensor, metric: Metric) -> torch.Tensor:
    """Exact distances of pairs.

    Args:
      queries: (P, 1, D) float64.
      rows: (P, C, D) float64.
      metric: with `cosine` both are unit vectors.

    Returns:
      (P, C) float32, to the last bit as defined above.
    """
    if queries.device.type != "cpu" or rows.shape[-1] == 0:
        return defined_distances(queries, rows, metric)
    # One pass without temporaries.  Its order of summation is another, so what lies that close to
    # the edge between two float32 numbers is computed again.
    length = torch.cdist(queries, rows, compute_mode="donot_use_mm_for_euclid_dist").squeeze(1)
    if metric == "cosine":
        length = length.square_().mul_(0.5)
    doubt = (2 * rows.shape[-1] + 32) * 2.0**-53
    low, high = (length * (1 - doubt)).float(), (length * (1 + doubt)).float()
    unsure = (low != high).nonzero()
    if len(unsure):
        for start in range(0, len(unsure), 2048):
            p, c = unsure[start : start + 2048].unbind(1)
            low[p, c] = defined_distances(queries[p], rows[p, c][:, None], metric).squeeze(1)
    return low


def defined_distances(queries: torch.Tensor, rows: torch.Tensor, metric: Metric) -> torch.Tensor:
    """As `pair_distances`, operation by operation as the definition says."""
    total = sum_by_halves((rows - queries).square_())
    return (total.sqrt() if metric == "euclidean" else total * 0.5).float()
