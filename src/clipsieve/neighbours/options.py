"""How a search uses the machine: device, number format of its products, sizes of its blocks."""

from dataclasses import dataclass

import torch

from clipsieve.clip.device import DTYPES, candidate_dtypes, resolve_device
from clipsieve.errors import UsageError

#: Formats of the products; any of them gives the same result.
PRODUCT_DTYPES = ("auto", "float32", "bfloat16")

#: Query rows and reference rows of a block of scores, by device type.
BLOCKS = {"cpu": (512, 16_384), "cuda": (8192, 65_536)}

#: Pairs whose exact distance is computed at once, by device type: on a CPU as many as stay in
#: its caches, for larger temporaries cost more page faults than arithmetic.
PAIRS = {"cpu": 2048, "cuda": 65_536}


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Where and in what portions neighbours are searched; the result never depends on it.

    A search holds one block of scores, `query_rows * reference_rows` numbers of 2 bytes (4 for
    float32 and on a GPU), and a few smaller tables, whatever the number of queries.

    Attributes:
      device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `clipsieve.clip.device`.
      dtype: format of the matrix products: `float32`, `bfloat16`, or `auto`, which is bfloat16
        on a GPU and on a CPU that multiplies it in hardware.
      query_rows: queries of a block; None is 512 on a CPU, 8192 on a GPU.
      reference_rows: reference rows of a block; None is 16384 on a CPU, 65536 on a GPU.
      tile: reference rows whose best score stands for all of them at first; None adapts it to k.
      pairs: exact distances computed at once, each D numbers of 8 bytes, three times over; None
        is 2048 on a CPU, 65536 on a GPU.
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


@dataclass(frozen=True, slots=True)
class Sizes:
    """What `SearchOptions` stand for on this machine."""

    device: torch.device
    dtype: torch.dtype
    query_rows: int
    reference_rows: int
    pairs: int
    tile: int | None

    @classmethod
    def of(cls, options: SearchOptions) -> "Sizes":
        """Look at the machine.

        Raises:
          UsageError: for an unknown device.
          DeviceError: if a GPU is asked for and missing, or present and unusable.
        """
        device = resolve_device(options.device).device
        dtype = candidate_dtypes(device)[-1] if options.dtype == "auto" else options.dtype
        if dtype not in PRODUCT_DTYPES:
            dtype = "float32"
        query_rows, reference_rows = BLOCKS[device.type]
        return cls(
            device,
            DTYPES[dtype],
            options.query_rows or query_rows,
            options.reference_rows or reference_rows,
            options.pairs or PAIRS[device.type],
            options.tile,
        )

    def tile_for(self, rows: int, k: int) -> int:
        """Rows of a tile in a block of `rows`: so few that k tiles are one in eight at most."""
        if self.tile is not None:
            return min(self.tile, rows)
        return min(32, 1 << max(0, (rows // (8 * k)).bit_length() - 1))
