"""The search of blocks of queries in a prepared reference: bounds, candidates, exact distances.

For each block of reference rows one product gives upper bounds of all scores (`bound`).  Rows
whose bound reaches the k-th distance found so far are candidates (`selection`); only their
distances are measured exactly, as `metric` defines them.
"""

import math
import mmap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from clipsieve.neighbours.bound import Frame
from clipsieve.neighbours.metric import Metric, defined_distances, prepare_vectors, round_lengths
from clipsieve.neighbours.selection import (
    NO_KEY,
    TiledTable,
    keep_lowest,
    key_distances,
    key_rows,
    make_keys,
)

if TYPE_CHECKING:
    from clipsieve.neighbours.index import ResolvedOptions

#: Reference rows prepared at once.
PORTION = 4096

#: Bytes of a large page; smaller tables stay in small ones.
LARGE_PAGE = 1 << 21


class Reference:
    """Reference rows, prepared once for all searches.

    Attributes:
      rows: (R, D) float16 or float32; with cosine, float32 unit vectors.
      metric: of the distances.
      options: where and in what portions to search.
      copies: from `count_earlier_copies`.
      frame: what shifts and scales the factors.
      factor: (R, W) of the format of the products.
    """

    def __init__(
        self, vectors: np.ndarray, first: int, metric: Metric, options: "ResolvedOptions"
    ) -> None:
        """Check and copy (R, D) vectors; `first` is the number of the first, for messages."""
        source = to_tensor(vectors, options.device)
        dtype = torch.float32 if metric == "cosine" else source.dtype
        self.metric, self.options = metric, options
        self.rows = empty_table(source.shape, dtype, source.device)
        for start in range(0, len(source), PORTION):
            part = slice(start, start + PORTION)
            self.rows[part] = prepare_vectors(source[part], metric, first + start, "reference")
        self.copies = count_earlier_copies(self.rows) if len(source) else None
        self.frame = Frame.from_rows(self.rows, options.dtype, PORTION)
        parts = torch.split(self.rows, PORTION)
        self.factor = torch.cat([self.frame.row_factor(part) for part in parts])


class Buffers:
    """Memory of one thread of a search, reused for each block of queries."""

    def __init__(self, reference: Reference, queries: int, k: int) -> None:
        """Allocate memory for blocks of at most `queries` queries and lists of length k."""
        self.reference, self.queries, self.k = reference, queries, k
        options, rows = reference.options, len(reference.rows)
        pilot = options.pilot_rows(rows, k)
        dtype = torch.float32 if options.device.type == "cuda" else options.dtype

        def table(count: int) -> torch.Tensor:
            # Room to fill up the last tile, whatever its size.
            room = count + max(128, options.tile or 0)
            return empty_table((room * queries,), dtype, options.device)

        self.meter = PairMeter(reference.rows, reference.metric, options.pairs)
        self.pilot = table(pilot)
        self.table = self.pilot
        if pilot < rows:
            self.table = table(min(options.reference_rows, rows - pilot))


class BlockSearch:
    """The search for one block of queries.

    Args:
      buffers: of the reference and the length of the lists; for this block alone until it is done.
      queries: (B, D) float16 or float32.
      first: number of the first query, for messages.
      own: (B, E) rows that must not be found; numbers that are none of the reference are ignored.
    """

    def __init__(self, buffers: Buffers, queries: np.ndarray, first: int, own: np.ndarray) -> None:
        """Check, shift, scale and round the queries."""
        self._buffers, self._reference, self._k = buffers, buffers.reference, buffers.k
        vectors = to_tensor(queries, self._reference.options.device).float()
        vectors = prepare_vectors(vectors, self._reference.metric, first, "query")
        self._factor = self._reference.frame.query_factor(vectors)
        self._queries = vectors.double()
        self._own = torch.from_numpy(own).to(vectors.device)

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest rows: (B, k) float32 distances and int64 rows; inf and -1 for none."""
        keys = self._search()
        return key_distances(keys).cpu().numpy(), key_rows(keys).cpu().numpy()

    def _search(self) -> torch.Tensor:
        """Search all blocks of the reference for the (B, k) lowest keys."""
        options, rows = self._reference.options, len(self._reference.rows)
        best = self._own.new_full((len(self._queries), self._k), NO_KEY)
        pilot = options.pilot_rows(rows, self._k)
        first = self._bounds(0, pilot, self._buffers.pilot, None)
        if pilot == rows:
            return self._update(best, first, estimate=True)
        # The first rows only tell how high bounds get, roughly; they are searched last.
        shift = first.table.kth_highest(self._k) - 2 * self._factor.typical_gap()
        for start in range(pilot, rows, options.reference_rows):
            stop = min(start + options.reference_rows, rows)
            bounds = self._bounds(start, stop, self._buffers.table, shift)
            best = self._update(best, bounds, estimate=start == pilot)
            shift = self._factor.shift_below(self._min_score(best))
        return self._update(best, first, estimate=False)

    def _bounds(
        self, start: int, stop: int, memory: torch.Tensor, shift: torch.Tensor | None
    ) -> "_Bounds":
        """Bound the scores of rows [start, stop), less `shift`; without one, table is ordered."""
        queries, count = len(self._queries), stop - start
        # An estimate needs few tiles.
        share = 2 if shift is None and count < len(self._reference.rows) else 7
        tile = self._reference.options.tile_rows(count, self._k, share)
        padded = -(-count // tile) * tile
        zero = self._queries.new_zeros(queries)
        rounded_shift = zero if shift is None else self._factor.set_shift(shift)
        bounds = memory[: padded * queries].view(padded, queries)
        self._factor.bounds(self._reference.factor[start:stop], bounds[:count])
        bounds[count:] = -torch.inf
        query, place = ((self._own >= start) & (self._own < stop)).nonzero(as_tuple=True)
        bounds[self._own[query, place] - start, query] = -torch.inf
        table = TiledTable.from_numbers(bounds, tile, ordered=shift is None)
        return _Bounds(table, rounded_shift, start)

    def _update(self, best: torch.Tensor, bounds: "_Bounds", estimate: bool) -> torch.Tensor:
        """Update keys with the rows of `bounds`.

        With `estimate`, where no distance is known yet, begin with rows whose bounds are so high
        that they will hardly be too many.
        """
        table, dtype = bounds.table, bounds.table.dtype
        low = self._factor.threshold(self._min_score(best), bounds.shift, dtype)
        if estimate:
            high = table.kth_highest(self._k) - self._factor.typical_gap()
            high -= high.abs() * (torch.finfo(dtype).eps / 2)
            low = torch.maximum(high.to(dtype), low)
        table = table.covering(low)
        best = self._add_candidates(best, table.find(low), bounds.start)
        if estimate:
            exact = self._factor.threshold(self._min_score(best), bounds.shift, dtype)
            missed = exact < low
            if bool(missed.any()):
                exact = torch.where(missed, exact, torch.inf)
                table = table.covering(exact)
                best = self._add_candidates(best, table.find(exact, below=low), bounds.start)
        return best

    def _min_score(self, best: torch.Tensor) -> torch.Tensor:
        """Compute the (B,) float64 scores that further rows have at least."""
        distances = key_distances(best[:, -1]).double()
        if self._reference.metric == "cosine":
            distances = ((distances + 2.0**-148) * 2).sqrt_()
        return self._factor.min_score(distances)

    def _add_candidates(
        self,
        best: torch.Tensor,
        candidates: Iterator[tuple[torch.Tensor, torch.Tensor]],
        start: int,
    ) -> torch.Tensor:
        """Measure candidates and update keys; `start` is the row at place 0 of their table."""
        copies = self._reference.copies
        for owners, places in candidates:
            rows = places + start
            if copies is not None:
                # As many earlier copies fill the list, whichever of them are own rows.
                keep = copies.index_select(0, rows) < self._k + self._own.shape[1]
                owners, rows = owners[keep], rows[keep]
            distances = self._buffers.meter.measure(self._queries, owners, rows)
            best = keep_lowest(best, owners, make_keys(distances, rows))
        return best


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Bounds of the rows from `start` on, less `shift` of each query."""

    table: TiledTable
    shift: torch.Tensor
    start: int


class PairMeter:
    """Measures exact distances of pairs, a portion at a time, in memory that is reused.

    Fresh memory for each portion would cost a CPU more than the arithmetic.
    """

    def __init__(self, rows: torch.Tensor, metric: Metric, portion: int) -> None:
        """Allocate memory for a portion of pairs with (R, D) float16 or float32 rows."""
        self._rows, self._metric, self._portion = rows, metric, portion
        self._selected = rows.new_empty(portion, rows.shape[1])
        self._wide = torch.empty_like(self._selected, dtype=torch.float64)
        self._subtracted = torch.empty_like(self._wide)

    def measure(
        self, queries: torch.Tensor, owners: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Measure (P,) float32 distances of pairs.

        Pair p is of query `owners[p]` of (B, D) float64 `queries` and reference row `rows[p]`.
        """
        if rows.device.type != "cpu":
            return self._measure_as_defined(queries, owners, rows)
        # Lengths are quicker than sums by halves, and nearly always give the same.
        lengths = torch.empty(len(rows), dtype=torch.float64)
        for differences, out in self._differences(queries, owners, rows, lengths):
            torch.linalg.vector_norm(differences, dim=1, out=out)
        distances, unsure = round_lengths(lengths, queries.shape[1], self._metric)
        if len(unsure):
            distances[unsure] = self._measure_as_defined(queries, owners[unsure], rows[unsure])
        return distances

    def _measure_as_defined(
        self, queries: torch.Tensor, owners: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Measure operation by operation as `metric` defines."""
        distances = torch.empty(len(rows), device=rows.device)
        for differences, out in self._differences(queries, owners, rows, distances):
            out.copy_(defined_distances(differences, self._metric))
        return distances

    def _differences(
        self, queries: torch.Tensor, owners: torch.Tensor, rows: torch.Tensor, out: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (P, D) rows less queries, in reused memory, and views of `out` for the results."""
        tables = (torch.split(table, self._portion) for table in (owners, rows, out))
        for part_owners, part_rows, part_out in zip(*tables, strict=True):
            selected, wide, subtracted = self._selected, self._wide, self._subtracted
            if (count := len(part_rows)) < self._portion:
                selected, wide, subtracted = selected[:count], wide[:count], subtracted[:count]
            torch.index_select(self._rows, 0, part_rows, out=selected)
            torch.index_select(queries, 0, part_owners, out=subtracted)
            yield wide.copy_(selected).sub_(subtracted), part_out


def count_earlier_copies(rows: torch.Tensor) -> torch.Tensor | None:
    """Count the equal rows that precede each row.

    A row that k + e equal rows precede is none of the k nearest of a query that leaves out e
    rows: they are as near and have lower numbers.  The web has one picture thousands of times, and
    its distance need not be measured thousands of times.

    Args:
      rows: (R, D) float16 or float32.

    Returns:
      (R,) int64, or None where all rows differ.  Equal means bit by bit, so that a row with a
      negative zero may count as different; too low a count is never wrong.

    >>> count_earlier_copies(torch.tensor([[1.0], [2.0], [1.0], [1.0]])).tolist()
    [0, 0, 1, 2]
    """
    bits = rows.view(torch.int16 if rows.dtype == torch.float16 else torch.int32)
    seeded = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=seeded).to(rows.device)
    # Sums wrap around, which is as good as any hash.
    parts = [(part.long() * weights).sum(1) for part in torch.split(bits, PORTION)]
    hashes, order = torch.cat(parts).sort(stable=True)
    begins = torch.ones_like(hashes, dtype=torch.bool)
    begins[1:] = hashes[1:] != hashes[:-1]
    if bool(begins.all()):
        return None
    # Each row is compared with the first of its hash, which may yet be another row.
    firsts = begins.nonzero().squeeze(1)[begins.cumsum(0) - 1]
    equal = begins.clone()
    for place in torch.split((~begins).nonzero().squeeze(1), PORTION):
        equal[place] = (bits[order[place]] == bits[order[firsts[place]]]).all(1)
    before = equal.cumsum(0) - 1
    copies = torch.empty_like(order)
    copies[order] = torch.where(equal, before - before[firsts], 0)
    return copies


def to_tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Put an array on `device`; on a CPU without a copy where possible."""
    array = np.ascontiguousarray(array)
    try:
        # Unlike from_numpy this takes arrays that cannot be written to, such as memory maps.
        tensor = torch.utils.dlpack.from_dlpack(array)
    except BufferError:
        tensor = torch.from_numpy(array.copy())
    return tensor.to(device)


def empty_table(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Allocate a tensor, in large pages where the system has them.

    A search reads places all over its tables.  In pages of 4 KiB most of these reads first look up
    where the page is, which takes longer than the read.

    >>> empty_table((3, 5), torch.float32, torch.device("cpu")).shape
    torch.Size([3, 5])
    """
    size = math.prod(shape) * dtype.itemsize
    # Only Linux knows the request.
    request = getattr(mmap, "MADV_HUGEPAGE", None)
    if device.type != "cpu" or size < LARGE_PAGE or request is None:
        return torch.empty(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel built without large pages refuses, and small ones do as well, only slower.
    with suppress(OSError):
        memory.madvise(request)
    room = torch.frombuffer(memory, dtype=torch.uint8)
    start = -room.data_ptr() % LARGE_PAGE
    return room[start : start + size].view(dtype).view(shape)
