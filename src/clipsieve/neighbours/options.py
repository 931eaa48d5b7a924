"""How a search uses the machine: device, number format of its products, sizes of its blocks."""

from dataclasses import dataclass

import torch

from clipsieve.clip.device import DTYPES, candidate_dtypes, resolve_device
from clipsieve.errors import UsageError

#: Formats of the products; any of them gives the same result.
PRODUCT_DTYPES = ("auto", "float32", "bfloat16")

#: Reference rows of a block, by device type: many, for what is near is known only after the first.
REFERENCE_ROWS = {"cpu": 65_536, "cuda": 65_536}

#: Queries of a block, at least and at most, by device type: fewer leave matrix units idle.
QUERY_ROWS = {"cpu": (64, 1024), "cuda": (64, 8192)}

#: Bytes of all blocks of scores held at once, where that allows the least number of queries.
BLOCK_BYTES = {"cpu": 1 << 27, "cuda": 1 << 31}

#: Reference rows from which the height of bounds is guessed.
PILOT = 1024

#: Pairs whose exact distance is computed at once, by device type: on a CPU as many as stay in
#: its caches, for larger temporaries cost more page faults than arithmetic.
PAIRS = {"cpu": 512, "cuda": 65_536}


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
        """Check what needs no look at the machine.

        Raises:
          UsageError: for an unknown dtype or a size below 1.
        """
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
class Sizes:
    """What `SearchOptions` stand for on this machine and for one reference."""

    device: torch.device
    dtype: torch.dtype
    query_rows: int
    reference_rows: int
    pairs: int
    tile: int | None
    workers: int

    @classmethod
    def of(cls, options: SearchOptions, rows: int) -> "Sizes":
        """Look at the machine, for a reference of `rows`.

        Raises:
          UsageError: for an unknown device.
          DeviceError: if a GPU is asked for and missing, or present and unusable.
        """
        device = resolve_device(options.device).device
        dtype = candidate_dtypes(device)[-1] if options.dtype == "auto" else options.dtype
        if dtype not in PRODUCT_DTYPES:
            dtype = "float32"
        reference_rows = options.reference_rows or REFERENCE_ROWS[device.type]
        # Chosen here, not at each search, so that all searches of an index hold the same memory.
        workers = torch.get_num_threads() if device.type == "cpu" else 1
        width = 2 if dtype == "bfloat16" and device.type == "cpu" else 4
        held = workers * max(1, min(rows, reference_rows)) * width
        least, most = QUERY_ROWS[device.type]
        query_rows = max(least, min(most, BLOCK_BYTES[device.type] // held))
        return cls(
            device,
            DTYPES[dtype],
            options.query_rows or query_rows,
            reference_rows,
            options.pairs or PAIRS[device.type],
            options.tile,
            workers,
        )

    def block_of(self, queries: int) -> int:
        """Queries of a block out of so many: less than a full block if cores would be left idle."""
        share = -(-queries // self.workers)
        return max(1, min(self.query_rows, max(share, QUERY_ROWS[self.device.type][0])))

    def pilot(self, rows: int, k: int) -> int:
        """Reference rows to begin with, out of `rows`: all of a small reference."""
        most = min(PILOT, self.reference_rows)
        return most if rows > 4 * most and k <= most // 8 else min(rows, self.reference_rows)

    def tile_for(self, rows: int, k: int, share: int = 7) -> int:
        """Rows of a tile in a block of `rows`: so few that k tiles are one in `share` at most."""
        if self.tile is not None:
            return self.tile
        return min(128, 1 << max(0, (rows // (share * k)).bit_length() - 1))
