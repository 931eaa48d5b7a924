"""Files of arrays: those of clipsieve are read, those that would take more are refused first."""

import io
import pickle
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from clipsieve.errors import LedgerError
from clipsieve.store.arrays import parse_npz
from clipsieve.store.folder import OutputFolder

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "names": np.array(["star", "ok"]),
    "cut": np.array(3),
    "none": np.zeros((0, 4)),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def zipped(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def npy(header, data=b"", version=b"\x01\x00"):
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


def array(shape, kind="'<f8'", data=b"", **options):
    return npy(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}", data, **options)


def of_objects():
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    return file.getvalue()


GOOD = array("(1,)", data=bytes(8))

#: Content of a file, and words of the reason.
REFUSED = {
    "no archive": (b"not a zip", "not a zip file"),
    "empty": (b"", "not a zip file"),
    "objects": (zipped([("a.npy", of_objects())]), "objects"),
    "a pickle": (zipped([("a.npy", pickle.dumps({}))]), "magic"),
    "no array": (zipped([("a.txt", b"x")]), "no array"),
    "a shape to compute": (zipped([("a.npy", array("(1 << 40,)"))]), ""),
    "a shape of 8 TB": (zipped([("a.npy", array("(1099511627776,)"))]), "another size"),
    "a negative shape": (zipped([("a.npy", array("(-1,)", data=bytes(8)))]), "another size"),
    "two negative": (zipped([("a.npy", array("(-1, -1)", data=bytes(8)))]), "another size"),
    "too few bytes": (zipped([("a.npy", array("(2,)", data=bytes(8)))]), "another size"),
    "too many bytes": (zipped([("a.npy", array("(1,)", data=bytes(16)))]), "another size"),
    "a struct": (zipped([("a.npy", array("(1,)", "[('x', '<f8')]", bytes(8)))]), "holds"),
    "bytes of any kind": (zipped([("a.npy", array("(1,)", "'|V8'", bytes(8)))]), "holds"),
    "code in the header": (zipped([("a.npy", npy("__import__('os').abort()"))]), ""),
    "a deep header": (zipped([("a.npy", npy("(" * 5000))]), ""),
    "an unknown format": (zipped([("a.npy", array("(1,)", version=b"\x09\x00"))]), "format"),
    "compressed": (zipped([("a.npy", GOOD)], zipfile.ZIP_DEFLATED), "compressed"),
    "a bomb": (
        zipped([("a.npy", array("(8388608,)", data=bytes(1 << 26)))], zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "cut": (zipped([("a.npy", GOOD)])[:-30], ""),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_clipsieve_does_not_write_is_refused_without_memory(kind):
    content, words = REFUSED[kind]
    tracemalloc.start()
    with pytest.raises(ValueError) as error:
        parse_npz(content)
    assert words in str(error.value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(content) * 3 + (1 << 25)
    assert len(str(error.value)) < 500


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two of one name"):
        parse_npz(zipped([("a.npy", GOOD), ("a.npy", GOOD)]))


def test_members_that_share_their_bytes_are_refused():
    content = zipped([("a.npy", GOOD + bytes(10_000))])
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entry = content[start:end]
    entries = b"".join(entry.replace(b"a.npy", f"{n}.npy".encode()) for n in "abcdefgh")
    tail = bytearray(content[end:])
    tail[8:10] = tail[10:12] = (8).to_bytes(2, "little")
    tail[12:16] = len(entries).to_bytes(4, "little")
    with pytest.raises(ValueError, match="more bytes than the file has"):
        parse_npz(content[:start] + entries + bytes(tail))


def test_arrays_are_read_back_whatever_their_order_in_memory(tmp_path):
    folder = OutputFolder.open(tmp_path)
    folder.write_arrays("x.npz", ARRAYS)
    read = folder.read_arrays("x.npz")
    assert sorted(read) == sorted(ARRAYS)
    for name, expected in ARRAYS.items():
        assert read[name].dtype == expected.dtype
        assert np.array_equal(read[name], expected)


def test_every_flipped_byte_is_an_error_or_the_same_arrays(tmp_path):
    folder = OutputFolder.open(tmp_path)
    folder.write_arrays("x.npz", {"a": np.arange(3.0)})
    content = (tmp_path / "x.npz").read_bytes()
    assert zlib.crc32(content)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 0x41
        (tmp_path / "x.npz").write_bytes(changed)
        try:
            folder.read_arrays("x.npz")
        except LedgerError as error:
            assert "makes it again" in str(error)
