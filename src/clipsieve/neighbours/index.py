"""One block of reference rows, prepared once, and the exact search in it."""

from dataclasses import dataclass

import numpy as np
import torch

from clipsieve.errors import UsageError
from clipsieve.neighbours.bound import Frame, QueryFactor
from clipsieve.neighbours.lists import Neighbours, check_k
from clipsieve.neighbours.metric import Metric, check_metric, pair_distances, unit_rows
from clipsieve.neighbours.options import SearchOptions, Sizes
from clipsieve.neighbours.ranked import MOST_ROWS, NOTHING, admit, distances_of, pack, rows_of
from clipsieve.neighbours.rows import as_tensor, check_values, checked_array, own_rows

#: Reference rows prepared at once.
PORTION = 4096

#: Bounds of promising tiles looked at, at once.
LOOKED_AT = 1 << 19


class ExactIndex:
    """Exact k nearest neighbours in a reference block.

    The result is defined by `clipsieve.neighbours.metric` to the last bit and does not depend on
    options, device, number format of the products, or which queries are searched together.

    Args:
      vectors: (R, D) float16 or float32, R may be 0; may be a memory map.  Not copied where a CPU
        can use it as it is, so it must not change while the index lives.
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
        self._sizes = Sizes.of(options or SearchOptions())
        rows = as_tensor(vectors, self._sizes.device)
        for start in range(0, len(rows), PORTION):
            check_values(rows[start : start + PORTION], first + start, "reference")
        if metric == "cosine":
            units = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
            for start in range(0, len(rows), PORTION):
                part = slice(start, start + PORTION)
                units[part] = unit_rows(rows[part], first + start, "reference")
            rows = units
        self._rows = rows
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
        size = self._sizes.query_rows
        scratch = self._scratch(min(size, len(queries)))
        for start in range(0, len(queries), size):
            part = slice(start, start + size)
            rows = as_tensor(queries[part], self._sizes.device).float()
            check_values(rows, start, "query")
            if self.metric == "cosine":
                rows = unit_rows(rows, start, "query")
            best = self._block(rows, min(k, len(self)), owned[part].to(rows.device), scratch)
            width = best.shape[1]
            indices = rows_of(best)
            indices = torch.where(indices < 0, -1, indices + self.first)
            found.distances[part, :width] = distances_of(best).cpu().numpy()
            found.indices[part, :width] = indices.cpu().numpy()
        return found

    def _scratch(self, queries: int) -> torch.Tensor | None:
        """Memory for the bounds of a block, used again for each."""
        if self._sizes.device.type != "cpu":
            return None
        rows = min(self._sizes.reference_rows, len(self))
        return torch.empty(queries * (rows + 32), dtype=self._sizes.dtype)

    def _block(
        self, queries: torch.Tensor, k: int, own: torch.Tensor, scratch: torch.Tensor | None
    ) -> torch.Tensor:
        """(B, k) keys of the nearest rows of a block of queries."""
        search = _BlockSearch(self._rows, queries.double(), self.metric, self._sizes.pairs)
        factor = self._frame.query_factor(queries)
        best = torch.full((len(queries), k), NOTHING, device=queries.device)
        step = self._sizes.reference_rows
        for start in range(0, len(self), step):
            rows = self._factor[start : start + step]
            tile = self._sizes.tile_for(len(rows), k)
            bounds = _bounds(factor, rows, tile, scratch)
            _leave_out(bounds, own - start, len(rows))
            tiles = bounds.view(len(bounds), tile, -1)
            maxima = tiles.amax(1)
            if start == 0:
                best = search.seed(best, tiles, maxima)
            reach = factor.reach(self._euclidean(best[:, -1]))
            threshold = factor.threshold(reach, bounds.dtype)
            best = search.rest(best, tiles, maxima, threshold, start)
            factor.shift(factor.reach(self._euclidean(best[:, -1])))
        return best

    def _euclidean(self, keys: torch.Tensor) -> torch.Tensor:
        """float64 Euclidean distances of keys, not rounded down further than float32 was."""
        distances = distances_of(keys).double()
        if self.metric == "cosine":
            distances = ((distances + 2.0**-148) * 2).sqrt_()
        return distances


@dataclass(frozen=True, slots=True)
class _BlockSearch:
    """Exact distances where bounds leave it open.

    Attributes:
      rows: (R, D) reference rows.
      queries: (B, D) float64.
      metric: of the distances.
      pairs: distances computed at once.
    """

    rows: torch.Tensor
    queries: torch.Tensor
    metric: Metric
    pairs: int

    def seed(self, best: torch.Tensor, tiles: torch.Tensor, maxima: torch.Tensor) -> torch.Tensor:
        """Keys of the best row of each of the k best tiles, which are taken out of `tiles`.

        Any k rows give an upper bound of the k-th distance; these give nearly the lowest.
        """
        queries, tile, width = tiles.shape
        k = min(best.shape[1], width)
        top = maxima.topk(k, dim=1, sorted=False)
        inside = torch.arange(tile, device=tiles.device) * width
        at = (top.indices[:, :, None] + inside).view(queries, k * tile)
        flat = tiles.view(queries, tile * width)
        place = flat.gather(1, at).view(queries, k, tile).argmax(2)
        rows = top.indices + place * width
        real = top.values > -torch.inf
        keys = best.new_empty(queries, k)
        step = max(1, self.pairs // k)
        for start in range(0, queries, step):
            part = slice(start, start + step)
            # Rows that were left out may lie beyond the last; whatever is read is not used.
            chosen = torch.where(real[part], rows[part], 0)
            near = self.rows[chosen].double()
            distances = pair_distances(self.queries[part, None], near, self.metric)
            keys[part] = torch.where(real[part], pack(distances, chosen), NOTHING)
        flat[torch.arange(queries, device=rows.device)[:, None], rows] = -torch.inf
        seeded = best.clone()
        seeded[:, :k] = keys
        return seeded.sort(1).values

    def rest(
        self,
        best: torch.Tensor,
        tiles: torch.Tensor,
        maxima: torch.Tensor,
        threshold: torch.Tensor,
        start: int,
    ) -> torch.Tensor:
        """Keys after all rows whose bounds reach the threshold; `start` numbers the first row."""
        _, tile, width = tiles.shape
        owner, column = (maxima >= threshold[:, None]).nonzero(as_tuple=True)
        flat = tiles.view(-1)
        inside = torch.arange(tile, device=tiles.device) * width
        step = max(1, LOOKED_AT // tile)
        for first in range(0, len(owner), step):
            owners, columns = owner[first : first + step], column[first : first + step]
            at = (owners * (tile * width) + columns)[:, None] + inside
            promising = flat[at] >= threshold[owners][:, None]
            which, place = promising.nonzero(as_tuple=True)
            rows = columns[which] + place * width + start
            whose = owners[which]
            best = admit(best, whose, self._keys(whose, rows))
        return best

    def _keys(self, owners: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(P,) keys of pairs of a query and a row."""
        keys = torch.empty_like(rows)
        for start in range(0, len(rows), self.pairs):
            part = slice(start, start + self.pairs)
            near = self.rows[rows[part]].double()[:, None]
            queries = self.queries[owners[part]][:, None]
            distances = pair_distances(queries, near, self.metric).squeeze(1)
            keys[part] = pack(distances, rows[part])
        return keys


def _bounds(
    factor: QueryFactor, rows: torch.Tensor, tile: int, scratch: torch.Tensor | None
) -> torch.Tensor:
    """(B, R') bounds, R' filled up with -inf to whole tiles."""
    queries, count = len(factor.factor), len(rows)
    whole = -(-count // tile) * tile
    if scratch is None or whole != count:
        bounds = factor.bounds(rows, None)
        return torch.nn.functional.pad(bounds, (0, whole - count), value=-torch.inf)
    return factor.bounds(rows, scratch[: queries * count].view(queries, count))


def _leave_out(bounds: torch.Tensor, own: torch.Tensor, count: int) -> None:
    """Set the bounds of own rows to -inf."""
    query, place = ((own >= 0) & (own < count)).nonzero(as_tuple=True)
    bounds[query, own[query, place]] = -torch.inf
