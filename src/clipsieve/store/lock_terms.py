"""How the only writer's lock of an output folder is held."""

from dataclasses import dataclass

#: Seconds after which the lock of a store is free that its holder has not renewed.
LEASE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LockTerms:
    """How the lock of an object store is held; the kernel's lock of a local folder needs none.

    Attributes:
      lease: seconds after which it is free if its holder has not renewed it.
      is_required: whether a store that cannot lock is refused.
    """

    lease: float = LEASE_SECONDS
    is_required: bool = True
