"""Exact search for nearest neighbours in one block of reference rows, and its options."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clipsieve.cores import cores
from clipsieve.errors import UsageError
from clipsieve.neighbours.lists import NeighbourLists, check_k
from clipsieve.neighbours.metric import Metric, check_metric, check_vectors

if TYPE_CHECKING:
    import torch

    from clipsieve.neighbours.search import Buffers

#: Formats of the products; any of them gives the same result.
PRODUCT_DTYPES = ("auto", "float32", "bfloat16")

#: Reference rows of a block: many, for what is near is known only after the first.
REFERENCE_ROWS = 65_536

#: Queries of a block, at least and at most, by device type: fewer leave matrix units idle.
QUERY_ROWS = {"cpu": (64, 1024), "cuda": (64, 8192)}

#: Bytes of all blocks of scores held at once, where that allows the least number of queries.
BLOCK_BYTES = {"cpu": 1 << 27, "cuda": 1 << 31}

#: Reference rows from which the height of bounds is estimated.
PILOT_ROWS = 1024

#: Pairs whose exact distance is computed at once, by device type: on a CPU as many as stay in
#: its caches, for larger temporaries cost more page faults than arithmetic.
PAIRS = {"cpu": 512, "cuda": 65_536}

#: References are smaller: local row numbers take 31 bits of a key.
ROW_LIMIT = 1 << 31


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Where and in what portions neighbours are searched; the result never depends on it.

    A search holds a block of scores, `query_rows * reference_rows` numbers of 2 bytes (4 for
    float32 and on a GPU), and a few smaller tables, whatever the number of queries; on a CPU one
    for each of torch's threads.  The index keeps them for its next search.

    Attributes:
      device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `clipsieve.clip.device`.
      dtype: format of the matrix products: `float32`, `bfloat16`, or `auto`, which is bfloat16
        on a GPU and on a CPU that multiplies it in hardware.
      query_rows: queries of a block, at most; None is 64 to 1024, on a GPU 64 to 8192, so that
        scores take 128 MiB in all, on a GPU 2 GiB.
      reference_rows: reference rows of a block, at most; None is 65536.
      tile: reference rows whose best score stands for all of them at first, a power of two; None
        adapts it to k.
      pairs: exact distances computed at once, each D numbers of 8 bytes, three times over; None
        is 512 on a CPU, 65536 on a GPU.
    """

    device: str = "auto"
    dtype: str = "auto"
    query_rows: int | None = None
    reference_rows: int | None = None
    tile: int | None = None
    pairs: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for an unknown dtype or a size out of range."""
        if self.dtype not in PRODUCT_DTYPES:
            raise UsageError(
                f"dtype {self.dtype!r} is not known here; choose {', '.join(PRODUCT_DTYPES)}"
            )
        for name in ("query_rows", "reference_rows", "tile", "pairs"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} must be an int of at least 1 or None, got {value!r}")
        if self.tile is not None and self.tile & (self.tile - 1):
            raise UsageError(f"tile must be a power of two or None, got {self.tile}")


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """What `SearchOptions` stand for on this machine and for one reference."""

    device: "torch.device"
    dtype: "torch.dtype"
    query_rows: int
    reference_rows: int
    pairs: int
    tile: int | None
    workers: int

    @classmethod
    def from_options(cls, options: SearchOptions, rows: int) -> "ResolvedOptions":
        """Resolve options for a reference of `rows`; raises as `resolve_device` does."""
        import torch

        from clipsieve.clip.device import DTYPES, candidate_dtypes, resolve_device

        device = resolve_device(options.device).device
        dtype = options.dtype
        if dtype == "auto":
            dtype = "bfloat16" if "bfloat16" in candidate_dtypes(device) else "float32"
        reference_rows = options.reference_rows or REFERENCE_ROWS
        # Chosen here, not at each search, so that all searches of an index hold the same memory.
        workers = min(torch.get_num_threads(), cores()) if device.type == "cpu" else 1
        width = 2 if dtype == "bfloat16" and device.type == "cpu" else 4
        bytes_per_query = workers * max(1, min(rows, reference_rows)) * width
        least, most = QUERY_ROWS[device.type]
        query_rows = max(least, min(most, BLOCK_BYTES[device.type] // bytes_per_query))
        return cls(
            device,
            DTYPES[dtype],
            options.query_rows or query_rows,
            reference_rows,
            options.pairs or PAIRS[device.type],
            options.tile,
            workers,
        )

    def block_size(self, queries: int) -> int:
        """Choose queries of a block: less than a full block if cores would be left idle."""
        share = -(-queries // self.workers)
        return max(1, min(self.query_rows, max(share, QUERY_ROWS[self.device.type][0])))

    def pilot_rows(self, rows: int, k: int) -> int:
        """Choose reference rows to begin with, out of `rows`: all of a small reference."""
        most = min(PILOT_ROWS, self.reference_rows)
        return most if rows > 4 * most and k <= most // 8 else min(rows, self.reference_rows)

    def tile_rows(self, rows: int, k: int, share: int) -> int:
        """Choose rows of a tile in a block of `rows`: k tiles are one in `share` at most."""
        if self.tile is not None:
            return self.tile
        return min(128, 1 << max(0, (rows // (share * k)).bit_length() - 1))


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
    >>> lists = ExactIndex(corners).search(corners[:1], k=2, own=np.array([0]))
    >>> lists.distances.tolist(), lists.indices.tolist()
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
        check_vectors(vectors, "reference")
        if first < 0 or len(vectors) >= ROW_LIMIT:
            raise UsageError(
                f"a reference of {len(vectors)} rows from number {first} cannot be indexed; "
                f"numbers begin at 0, and larger references than {ROW_LIMIT - 1} go in parts"
            )
        from clipsieve.neighbours.search import Reference  # torch takes seconds to import

        self.first, self.metric = first, metric
        self._options = ResolvedOptions.from_options(options or SearchOptions(), len(vectors))
        self._reference = Reference(vectors, first, metric, self._options)
        self._buffers: list[Buffers] = []

    def __len__(self) -> int:
        """Number of reference rows."""
        return len(self._reference.rows)

    def search(self, queries: np.ndarray, k: int, own: np.ndarray | None = None) -> NeighbourLists:
        """Search for the k nearest reference rows of each query.

        Blocks of queries are searched in parallel, each on one core: cores that share each of the
        many small operations wait for each other, for milliseconds where one of them is busy.

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
        check_vectors(queries, "query", self._reference.rows.shape[1])
        positions = self._own_positions(own, len(queries))
        lists = NeighbourLists.empty(len(queries), k)
        if not len(self) or not len(queries):
            return lists
        import torch

        from clipsieve.neighbours.search import BlockSearch, Buffers

        k = min(k, len(self))
        size = self._options.block_size(len(queries))
        starts = range(0, len(queries), size)
        workers = min(len(starts), self._options.workers)
        # Memory of the last search is kept if it fits: fresh memory takes a while.
        buffers = [each for each in self._buffers if (each.queries, each.k) == (size, k)]
        buffers, self._buffers = buffers[:workers], []
        buffers += [Buffers(self._reference, size, k) for _ in range(workers - len(buffers))]

        def search_block(start: int) -> None:
            part = slice(start, start + size)
            memory = buffers.pop()
            try:
                search = BlockSearch(memory, queries[part], start, positions[part])
                lists.distances[part, :k], rows = search.run()
            finally:
                buffers.append(memory)
            lists.indices[part, :k] = np.where(rows < 0, -1, rows + self.first)

        if workers == 1:
            for start in starts:
                search_block(start)
        else:
            # The initializer limits the threads of the pool to one core each, and no other.
            with ThreadPoolExecutor(workers, "search", torch.set_num_threads, (1,)) as pool:
                for _ in pool.map(search_block, starts):
                    pass
        self._buffers = buffers
        return lists

    def _own_positions(self, own: np.ndarray | None, queries: int) -> np.ndarray:
        """Convert numbers of own rows to (N, E) int64 positions, some outside the reference."""
        if own is None:
            return np.empty((queries, 0), np.int64)
        own = np.asarray(own)
        if own.ndim not in (1, 2) or len(own) != queries or own.dtype.kind not in "iu":
            raise UsageError(
                f"own must be integers of shape ({queries},) or ({queries}, E), one row a query, "
                f"got {own.dtype} of shape {own.shape}"
            )
        if own.size and own.min() < -1:
            raise UsageError(
                f"own holds {own.min()}; use numbers of reference rows, or -1 for none"
            )
        return (own[:, None] if own.ndim == 1 else own).astype(np.int64) - self.first
