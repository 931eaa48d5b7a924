"""One block of reference rows, prepared once, and the exact search in it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from clipsieve.errors import UsageError
from clipsieve.neighbours.bound import Frame
from clipsieve.neighbours.copies import earlier_copies
from clipsieve.neighbours.exact import PairMeter
from clipsieve.neighbours.lists import Neighbours, check_k
from clipsieve.neighbours.metric import Metric, check_metric, unit_rows
from clipsieve.neighbours.options import SearchOptions, Sizes
from clipsieve.neighbours.pages import empty_table
from clipsieve.neighbours.ranked import MOST_ROWS, NOTHING, admit, distances_of, pack, rows_of
from clipsieve.neighbours.rows import as_tensor, check_values, checked_array, own_rows
from clipsieve.neighbours.scan import TiledTable
from clipsieve.neighbours.spread import spread

#: Reference rows prepared at once.
PORTION = 4096


class ExactIndex:
    """Exact k nearest neighbours in a reference block.

    The result is defined by `clipsieve.neighbours.metric` to the last bit and does not depend on
    options, device, number format of the products, or which queries are searched together.

    Args:
      vectors: (R, D) float16 or float32, R may be 0; may be a memory map.  Copied, once as it is
        (or as float32 unit vectors) and once in the number format of the products.
      first: number of the first row, at least 0; results and `own` use `first`, `first + 1`, ...
      metric: `euclidean`, or `cosine`, which is 1 - cos in [0, 2].
      options: where and in what portions to search.

    Raises:
      UsageError: for an unknown metric, a wrong shape or format, a value that is not finite or
        beyond 1e30, or, with cosine, a zero vector.
      DeviceError: if the device is missing or unusable.

    >>> corners = np.array([[0, 0], [0, 3], [4, 0], [4, 3]], np.float32)
    >>> found = ExactIndex(corners).search(corners[:1], k=2, own=np.array([0]))
    >>> found.distances.tolist(), found.indices.tolist()
    ([[3.0, 4.0]], [[1, 2]])
    """

    def __init__(
        self,
        vectors: np.ndarray,
        first: int = 0,
        metric: Metric = "euclidean",
        options: SearchOptions | None = None,
    ) -> None:
        """Shift, scale and round the reference once."""
        check_metric(metric)
        checked_array(vectors, "reference")
        if first < 0 or len(vectors) >= MOST_ROWS:
            raise UsageError(
                f"a reference of {len(vectors)} rows from number {first} cannot be indexed; "
                f"numbers begin at 0, and larger references than {MOST_ROWS - 1} go in parts"
            )
        self.first = first
        self.metric: Metric = metric
        self._sizes = Sizes.of(options or SearchOptions(), len(vectors))
        given = as_tensor(vectors, self._sizes.device)
        dtype = torch.float32 if metric == "cosine" else given.dtype
        self._rows = empty_table(given.shape, dtype, given.device)
        for start in range(0, len(given), PORTION):
            part = slice(start, start + PORTION)
            check_values(given[part], first + start, "reference")
            unit = metric == "cosine"
            self._rows[part] = (
                unit_rows(given[part], first + start, "reference") if unit else given[part]
            )
        rows = self._rows
        self._idle: list[_Scratch] = []
        self._copies = earlier_copies(rows) if len(rows) else None
        self._frame = Frame.of(rows, self._sizes.dtype, PORTION)
        factors = [self._frame.row_factor(part) for part in torch.split(rows, PORTION)]
        self._factor = torch.cat(factors)

    def __len__(self) -> int:
        """Number of reference rows."""
        return len(self._rows)

    def search(self, queries: np.ndarray, k: int, own: np.ndarray | None = None) -> Neighbours:
        """The k nearest reference rows of each query.

        Args:
          queries: (N, D) float16 or float32; N may be 0.
          k: length of the lists, at least 1; may exceed the number of rows.
          own: (N,) or (N, E) int64 numbers of reference rows that are the query itself and must
            not be found, -1 for none.  Only these are left out: other rows at distance zero are
            neighbours.

        Returns:
          Lists of N queries, ties by lower row number.

        Raises:
          UsageError: for k below 1, a wrong shape or format, a value that is not finite or beyond
            1e30, or, with cosine, a zero vector.
        """
        check_k(k)
        checked_array(queries, "query", self._rows.shape[1])
        owned = own_rows(own, len(queries), self.first, len(self))
        found = Neighbours.none(len(queries), k)
        if len(self) == 0:
            return found
        k = min(k, len(self))
        size = self._sizes.block_of(len(queries))

        def answer(scratch: _Scratch, start: int) -> None:
            part = slice(start, start + size)
            rows = as_tensor(queries[part], self._sizes.device).float()
            check_values(rows, start, "query")
            if self.metric == "cosine":
                rows = unit_rows(rows, start, "query")
            best = self._block(rows, k, owned[part].to(rows.device), scratch)
            indices = rows_of(best)
            indices = torch.where(indices < 0, -1, indices + self.first)
            found.distances[part, :k] = distances_of(best).cpu().numpy()
            found.indices[part, :k] = indices.cpu().numpy()

        blocks = range(0, len(queries), size)
        workers = min(len(blocks), self._sizes.workers)
        used: list[_Scratch] = []

        def scratch() -> _Scratch:
            used.append(self._scratch(size, k))
            return used[-1]

        spread(answer, scratch, blocks, max(1, workers))
        self._idle = used
        return found

    def _scratch(self, queries: int, k: int) -> "_Scratch":
        """Memory of the last search if it fits: to be given fresh memory takes a while."""
        try:
            idle = self._idle.pop()
        except IndexError:
            return _Scratch(self, queries, k)
        return idle if idle.fits(queries, k) else _Scratch(self, queries, k)

    def _block(
        self, queries: torch.Tensor, k: int, own: torch.Tensor, scratch: "_Scratch"
    ) -> torch.Tensor:
        """(B, k) keys of the nearest rows of a block of queries."""
        search = _BlockSearch(self, queries, own, scratch, k)
        best = torch.full((len(queries), k), NOTHING, device=queries.device)
        pilot = self._sizes.pilot(len(self), k)
        first = search.table(0, pilot, scratch.pilot, None)
        if pilot == len(self):
            return search.look(best, first, guess=True)
        # The first rows only tell how high bounds get, roughly; they are looked into at last.
        shift = first.table.high(k) - 2 * search.factor.gap()
        for start in range(pilot, len(self), self._sizes.reference_rows):
            stop = min(start + self._sizes.reference_rows, len(self))
            table = search.table(start, stop, scratch.table, shift)
            best = search.look(best, table, guess=start == pilot)
            shift = search.factor.safely_below(search.reach(best))
        return search.look(best, first, guess=False)


class _BlockSearch:
    """The search for one block of queries.

    Args:
      index: the reference.
      queries: (B, D) float32.
      own: (B, E) rows that must not be found, -1 for none.
      scratch: memory.
      k: length of the lists.
    """

    def __init__(
        self,
        index: ExactIndex,
        queries: torch.Tensor,
        own: torch.Tensor,
        scratch: "_Scratch",
        k: int,
    ) -> None:
        self.factor = index._frame.query_factor(queries)
        self._index, self._own, self._meter, self._k = index, own, scratch.meter, k
        self._wide = queries.double()

    def table(
        self, start: int, stop: int, memory: torch.Tensor, shift: torch.Tensor | None
    ) -> "_Bounds":
        """Bounds of rows [start, stop), less `shift`; without it, also negative ones in order."""
        queries, count = len(self._wide), stop - start
        # What is only to be guessed needs few tiles.
        share = 2 if shift is None and count < len(self._index) else 7
        tile = self._index._sizes.tile_for(count, self._k, share)
        whole = -(-count // tile) * tile
        by = self._wide.new_zeros(queries) if shift is None else self.factor.shifted(shift)
        bounds = memory[: whole * queries].view(whole, queries)
        self.factor.bounds(self._index._factor[start:stop], bounds[:count])
        bounds[count:] = -torch.inf
        query, place = ((self._own >= start) & (self._own < stop)).nonzero(as_tuple=True)
        bounds[self._own[query, place] - start, query] = -torch.inf
        return _Bounds(TiledTable.of(bounds, tile, ordered=shift is None), by, start)

    def look(self, best: torch.Tensor, bounds: "_Bounds", guess: bool) -> torch.Tensor:
        """Keys after the rows of `bounds`.

        With `guess`, where nothing is known yet, begin with those that will hardly be too many.
        """
        table, dtype = bounds.table, bounds.table.dtype
        known = low = self.factor.threshold(self.reach(best), bounds.shift, dtype)
        if guess:
            high = table.high(self._k) - self.factor.gap()
            high -= high.abs() * (torch.finfo(dtype).eps / 2)
            low = torch.maximum(high.to(dtype), known)
        table = table.down_to(low)
        best = self._admit(best, table.at_least(low), bounds.start)
        if guess:
            known = self.factor.threshold(self.reach(best), bounds.shift, dtype)
            missed = known < low
            if bool(missed.any()):
                known = torch.where(missed, known, torch.inf)
                table = table.down_to(known)
                best = self._admit(best, table.at_least(known, below=low), bounds.start)
        return best

    def reach(self, best: torch.Tensor) -> torch.Tensor:
        """(B,) float64 scores that rows still to be found have at least."""
        distances = distances_of(best[:, -1]).double()
        if self._index.metric == "cosine":
            distances = ((distances + 2.0**-148) * 2).sqrt_()
        return self.factor.reach(distances)

    def _admit(
        self,
        best: torch.Tensor,
        found: Iterator[tuple[torch.Tensor, torch.Tensor]],
        start: int,
    ) -> torch.Tensor:
        """Keys after the pairs that were found; `start` is the row at place 0."""
        for owners, places in found:
            rows = places + start
            if self._index._copies is not None:
                # As many earlier copies fill the list, whatever of them is left out.
                enough = self._k + self._own.shape[1]
                keep = self._index._copies.index_select(0, rows) < enough
                owners, rows = owners[keep], rows[keep]
            distances = self._meter.measure(self._wide, owners, rows)
            best = admit(best, owners, pack(distances, rows))
        return best


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Bounds of the rows from `start` on, less `shift` of each query."""

    table: TiledTable
    shift: torch.Tensor
    start: int


class _Scratch:
    """Memory of one thread of a search, used again for each block of queries."""

    def __init__(self, index: ExactIndex, queries: int, k: int) -> None:
        self._for = queries, k
        sizes, rows = index._sizes, len(index)
        pilot = sizes.pilot(rows, k)
        dtype = torch.float32 if sizes.device.type == "cuda" else sizes.dtype

        def table(count: int) -> torch.Tensor:
            # Room to fill up the last tile, whatever its size.
            room = count + max(128, sizes.tile or 0)
            return empty_table((room * queries,), dtype, sizes.device)

        self.meter = PairMeter.of(index._rows, index.metric, sizes.pairs)
        self.pilot = table(pilot)
        self.table = table(min(sizes.reference_rows, rows - pilot)) if pilot < rows else self.pilot

    def fits(self, queries: int, k: int) -> bool:
        """Whether it was made for searches like this one."""
        return self._for == (queries, k)
