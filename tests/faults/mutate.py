"""Damage bytes in the ways in which files are damaged, or made to deceive."""

import random
from collections.abc import Callable

Mutation = Callable[[bytearray, random.Random], None]


def flip(data: bytearray, rng: random.Random) -> None:
    """Flip one bit."""
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_many(data: bytearray, rng: random.Random) -> None:
    """Flip 2 to 40 bits."""
    for _ in range(rng.randrange(2, 41)):
        flip(data, rng)


def flip_head(data: bytearray, rng: random.Random) -> None:
    """Flip bits of the first 64 bytes, where sizes and types are."""
    for _ in range(rng.randrange(1, 5)):
        data[rng.randrange(min(64, len(data)))] ^= 1 << rng.randrange(8)


def zero(data: bytearray, rng: random.Random) -> None:
    """Zero up to 512 bytes."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, 513))
    data[start:end] = bytes(end - start)


def cut(data: bytearray, rng: random.Random) -> None:
    """Cut the end off, all of it in some cases."""
    del data[rng.randrange(len(data)) :]


def insert(data: bytearray, rng: random.Random) -> None:
    """Insert random bytes."""
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.randrange(1, 33))


def remove(data: bytearray, rng: random.Random) -> None:
    """Remove bytes from the middle."""
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 65)]


def swap(data: bytearray, rng: random.Random) -> None:
    """Swap two blocks."""
    size = max(1, min(256, len(data) // 4))
    a, b = sorted((rng.randrange(len(data) - size + 1), rng.randrange(len(data) - size + 1)))
    first, second = data[a : a + size], data[b : b + size]
    data[a : a + size], data[b : b + size] = second, first


def extreme(data: bytearray, rng: random.Random) -> None:
    """Put an extreme number where two, four or eight bytes may be one."""
    size = rng.choice((2, 4, 8))
    if len(data) < size:
        return
    at = rng.randrange(min(len(data) - size + 1, rng.choice((64, len(data)))))
    value = rng.choice((b"\x00" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f"))
    data[at : at + size] = value[:size]


def noise(data: bytearray, rng: random.Random) -> None:
    """Replace a block by noise."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, 129))
    data[start:end] = rng.randbytes(end - start)


ALL: tuple[Mutation, ...] = (
    flip,
    flip_many,
    flip_head,
    zero,
    cut,
    insert,
    remove,
    swap,
    extreme,
    noise,
)


def mutate(data: bytes, rng: random.Random, mutations: tuple[Mutation, ...] = ALL) -> bytes:
    """Damage a copy of `data` once, in some cases two or three times."""
    copy = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if copy:
            rng.choice(mutations)(copy, rng)
    return bytes(copy)
