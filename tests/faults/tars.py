"""Webdataset tars with hostile members, mutated headers and metadata."""

import gzip
import io
import json
import random
import tarfile

from tests.faults import mutate
from tests.faults.pictures import mutated as mutated_picture
from tests.faults.pictures import sound

_BLOCK = 512
_CAPTIONS = ("a red square", "two cats on a wall", "ünïcode ✓", "")


def mutated(rng: random.Random) -> tuple[str, str, bytes]:
    """Return what was done, a suffix, and a damaged tar of a few samples."""
    how = rng.choice(tuple(_WAYS))
    data = bytearray(base(rng, hostile_metadata=how == "metadata"))
    _WAYS[how](data, rng)
    if how == "gzip":
        return how, ".tar.gz", mutate.mutate(gzip.compress(bytes(data), 1), rng)
    if rng.random() < 0.2:
        return how, ".tar.gz", gzip.compress(bytes(data), 1)
    return how, ".tar", bytes(data)


def base(rng: random.Random, hostile_metadata: bool = False) -> bytes:
    """Return a sound tar of six samples: picture, caption, metadata."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=rng.choice((0, 1, 2))) as tar:
        for key in range(6):
            picture = mutated_picture(rng) if rng.random() < 0.2 else rng.choice(sound()[:12])
            add(tar, f"{key:06}.jpg", picture)
            add(tar, f"{key:06}.txt", rng.choice(_CAPTIONS).encode())
            text = hostile_json(rng) if hostile_metadata else metadata(rng, key)
            add(tar, f"{key:06}.json", text)
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def metadata(rng: random.Random, key: int) -> bytes:
    """Return what img2dataset writes beside a picture."""
    return json.dumps(
        {"uid": f"u{key}", "url": "http://example/x", "width": rng.randrange(99)}
    ).encode()


def hostile_json(rng: random.Random) -> bytes:
    """Return metadata made to break who reads it, in one of many ways."""
    deep = rng.choice((100, 3000, 200_000))
    return rng.choice(
        (
            b"[" * deep,
            b'{"a":' * deep + b"1" + b"}" * deep,
            b'{"\\ud800": 1, "uid": "\\udc00"}',
            b'{"uid": NaN, "width": Infinity, "height": -1e999}',
            b'{"uid": ' + b"9" * 5000 + b"}",
            b'{"uid": "a", "uid": ["b"], "url": {"x": {}}}',
            b'{"uid": "\x00\x1b]0;x\x07", "caption": "\\u202e"}',
            b'\xff\xfe{"uid": 1}',
            b"",
            b"null",
            b'"text"',
            b'{"caption": "' + b"x" * 3_000_000 + b'"}',
            b'{"uid": true, "shard": "../../x", "row": "y", "status": 3}',
            b'{"' + b"k" * 70_000 + b'": 1}',
            mutate.mutate(metadata(rng, 1), rng),
        )
    )


def _field(header: bytearray, start: int, size: int, text: bytes) -> None:
    header[start : start + size] = text[:size].ljust(size, b"\0")


def _headers(data: bytearray) -> list[int]:
    """Find member headers of a sound tar."""
    found, at = [], 0
    while at + _BLOCK <= len(data) and any(data[at : at + _BLOCK]):
        found.append(at)
        size = int(bytes(data[at + 124 : at + 135]).strip(b"\0 ") or b"0", 8)
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return found


def _damage_header(data: bytearray, rng: random.Random) -> None:
    """Give a member a hostile size, type, name or link, with a valid checksum in most cases."""
    at = rng.choice(_headers(data))
    header = data[at : at + _BLOCK]
    what = rng.randrange(5)
    if what == 0:
        sizes = (b"77777777777", b"00000000000", b"-1", b"\x80" + b"\xff" * 10, b"zzz")
        _field(header, 124, 12, rng.choice((*sizes, f"{rng.getrandbits(30):011o}".encode())))
    elif what == 1:
        header[156] = rng.choice(b"0123456789SxgLKDMNVX\0\xff")
    elif what == 2:
        names = (b"../../../tmp/x.jpg", b"/etc/passwd", b"", b"\xff\xfe.jpg", b"\x1b]0;x\x07.jpg")
        _field(header, 0, 100, rng.choice((*names, b"a" * 100, b"no-suffix", b"000001.jpg")))
    elif what == 3:
        header[156] = rng.choice(b"12")
        _field(header, 157, 100, rng.choice((b"/etc/passwd", b"000000.jpg", b"../x", b"")))
    else:
        mutate.flip_many(header, rng)
    if rng.random() < 0.8:
        _field(header, 148, 8, b"        ")
        _field(header, 148, 8, f"{sum(header):06o}\0 ".encode())
    data[at : at + _BLOCK] = header


def _anything(data: bytearray, rng: random.Random) -> None:
    data[:] = mutate.mutate(bytes(data), rng)


def _nothing(data: bytearray, rng: random.Random) -> None:
    """The harm is in the members, or done after compression."""


_WAYS = {
    "header": _damage_header,
    "header again": _damage_header,
    "metadata": _nothing,
    "gzip": _nothing,
    "anything": _anything,
}


def sparse_claim() -> bytes:
    """Return a tar whose GNU sparse member says that it is 40 GB long."""
    info = tarfile.TarInfo("000000.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    _field(header, 386, 12, b"%011o" % (40 << 30))
    _field(header, 398, 12, b"%011o" % 0)
    _field(header, 483, 12, b"\x80" + (40 << 30).to_bytes(11, "big"))
    _field(header, 148, 8, b"        ")
    _field(header, 148, 8, f"{sum(header):06o}\0 ".encode())
    return bytes(header) + bytes(1024)
