"""Large tables in large pages of memory.

A search reads places all over its tables.  In pages of 4 KiB most of these reads first look up
where the page is, which takes longer than the read.
"""

import math
import mmap
from contextlib import suppress

import torch

#: Bytes of a large page; smaller tables stay in small ones.
LARGE = 1 << 21


def empty_table(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor of any content, in large pages where the system has them for the asking.

    >>> empty_table((3, 5), torch.float32, torch.device("cpu")).shape
    torch.Size([3, 5])
    """
    size = math.prod(shape) * dtype.itemsize
    # Only Linux knows the request.
    request = getattr(mmap, "MADV_HUGEPAGE", None)
    if device.type != "cpu" or size < LARGE or request is None:
        return torch.empty(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, size + LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel built without large pages refuses, and small ones do as well, only slower.
    with suppress(OSError):
        memory.madvise(request)
    room = torch.frombuffer(memory, dtype=torch.uint8)
    start = -room.data_ptr() % LARGE
    return room[start : start + size].view(dtype).view(shape)
