"""Limits of this process, for the length of a block."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def file_sizes_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
