"""uids as pairs, against DataComp's rule as a loop over Python integers."""

import io
import random

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.exports.npy import PAIRS, sort_pairs, uid_pairs, write_pairs


def datacomp_file(uids: list[str]) -> bytes:
    """Bytes of the subset file that DataComp's rule gives."""
    pairs = sorted((int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids)
    file = io.BytesIO()
    np.save(file, np.array(pairs, np.dtype("u8,u8")))
    return file.getvalue()


def our_file(uids: list[str], offset: int = 0, kind: pa.DataType | None = None) -> bytes:
    column = pa.array(["", *uids], kind or pa.string())[1:][offset:]
    file = io.BytesIO()
    high, low = uid_pairs(column)
    sort_pairs(high, low)
    write_pairs(file, high, low)
    return file.getvalue()


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 1000, 9000])
@pytest.mark.parametrize("digits", [32, 17, 2])
def test_the_file_is_datacomps(rows, digits):
    # Few digits: most high words are equal, and pairs repeat.
    rng = random.Random(rows * 100 + digits)
    uids = [f"{rng.getrandbits(4 * digits):032x}" for _ in range(rows)]
    assert our_file(uids) == datacomp_file(uids)


def test_ties_in_the_leading_bits_are_mended():
    rng = random.Random(7)
    words = [rng.getrandbits(4) << rng.choice([0, 30, 60]) for _ in range(5000)]
    uids = [f"{word:016x}{rng.getrandbits(3):016x}" for word in words]
    assert our_file(uids) == datacomp_file(uids)


def test_a_million_pairs_with_ties_everywhere_are_sorted():
    # More rows than are compared at once.
    rng = np.random.default_rng(5)
    high = rng.integers(0, 500_000, 1_300_000).astype(np.uint64)
    low = rng.integers(0, 4, len(high)).astype(np.uint64)
    order = np.lexsort((low, high))
    expected = high[order], low[order]
    sort_pairs(high, low)
    assert np.array_equal(high, expected[0]) and np.array_equal(low, expected[1])


def test_extremes_upper_case_slices_and_large_strings():
    uids = ["0" * 32, "F" * 32, "00000000000000aB" + "f" * 16, "0123456789abcdefABCDEF9876543210"]
    assert our_file(uids) == datacomp_file(uids)
    assert our_file(uids, 2) == datacomp_file(uids[2:])
    assert our_file(uids, kind=pa.large_string()) == datacomp_file(uids)


@pytest.mark.parametrize(
    "uid",
    [
        *("0x" + "1" * 30, "1_" * 16, "+" + "1" * 31, " " + "1" * 31, "g" * 32, "G" + "0" * 31),
        *("", "1" * 31, "1" * 33, "1" * 64, "é" + "1" * 30, "/" + "1" * 31, ":" + "1" * 31),
        *("@" + "1" * 31, "`" + "1" * 31, "1" * 31 + "\n", "\x10" * 32, None),
    ],
)
def test_anything_else_is_refused(uid):
    # Python's int() takes some of these, for which DataComp's file would have wrong pairs.
    with pytest.raises(ValueError):
        uid_pairs(pa.array(["0" * 32, uid]))


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="int64"):
        uid_pairs(pa.array([1, 2]))


def test_the_resharders_look_up_works_on_the_file():
    uids = [f"{number * 7919:032x}" for number in range(100)]
    subset = np.load(io.BytesIO(our_file(uids[::2])))
    assert subset.dtype == PAIRS
    for at, uid in enumerate(uids):
        key = np.array([(int(uid[:16], 16), int(uid[16:32], 16))], PAIRS)[0]
        place = np.searchsorted(subset, key)
        assert (place < len(subset) and subset[place] == key) == (at % 2 == 0)
