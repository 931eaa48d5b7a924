"""Arrays as parts of a frozen statistic: compared and hashed by their content."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np


@dataclass(frozen=True, eq=False)
class HashedArray:
    """An array that is equal to another of the same shape, type and bytes; not to be written to.

    Attributes:
      values: the array, of a numeric type.
    """

    values: np.ndarray

    @cached_property
    def digest(self) -> bytes:
        """Hash of type, shape and bytes, computed once."""
        header = f"{self.values.dtype.str} {self.values.shape} ".encode()
        return blake2b(header + self.values.tobytes(), digest_size=16).digest()

    def __eq__(self, other: object) -> bool:
        """Whether both have the same content."""
        return isinstance(other, HashedArray) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash of the content, the same in every process."""
        return int.from_bytes(self.digest[:8], "little")


class LocalArray(HashedArray):
    """A hashed array that stays in its process: pickled, it is its digest alone.

    For statistics that are made where they observe, and travel only as keys of what they saw.
    """

    def __reduce__(self) -> tuple[type["LocalArray"], tuple[()], dict[str, bytes]]:
        """Leave the values behind; equality and hash need the digest only."""
        return _without_values, (), {"digest": self.digest}  # type: ignore[return-value]


def _without_values() -> LocalArray:
    """A local array whose values are elsewhere."""
    return LocalArray.__new__(LocalArray)
