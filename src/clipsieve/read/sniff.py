"""What a file really is, told from its first bytes; names are not trusted."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from typing import BinaryIO, cast

from clipsieve.read.items import InputFormat

#: Extensions that are taken for pictures in tars and folders; the decoder has the last word.
PICTURES = (
    *("jpg", "jpeg", "png", "webp", "jpe", "jfif", "gif", "bmp", "tif", "tiff", "avif"),
    *("heic", "heif", "jp2", "ppm"),
)

_HEAD = 512
_KNOWN = (
    (b"\xff\xd8\xff", "a JPEG picture; name the folder it is in"),
    (b"\x89PNG", "a PNG picture; name the folder it is in"),
    (b"PARE", "an encrypted Parquet file; decrypt it first"),
    (b"ARROW1", "an Arrow file; convert it to Parquet"),
    (b"PK\x03\x04", "a zip archive; unpack it and name the folder"),
)


def decompressed(handle: BinaryIO) -> BinaryIO:
    """Return the stream, undoing gzip, bzip2 or xz if its first bytes say so.

    Unlike `tarfile`'s own, these readers check checksums and notice a cut-off end.
    """
    magic = handle.read(6)
    handle.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=handle))
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(handle))
    if magic == b"\xfd7zXZ\x00":
        return cast(BinaryIO, lzma.LZMAFile(handle))
    return handle


def sniff(handle: BinaryIO) -> tuple[InputFormat | None, str]:
    """Return the format of an open file, and in words what it is; None if not readable here.

    The file is left at its beginning.  Zero bytes are "empty (0 bytes)".
    """
    head = handle.read(_HEAD)
    handle.seek(0)
    if head.startswith(b"PAR1"):
        return InputFormat.PARQUET, "a Parquet file"
    if not head:
        return None, "empty (0 bytes)"
    for magic, words in _KNOWN:
        if head.startswith(magic):
            return None, words
    try:
        block = decompressed(handle).read(_HEAD)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        block = b""
    handle.seek(0)
    if _is_tar_block(block):
        return InputFormat.WEBDATASET, "a webdataset tar"
    return None, "neither Parquet nor tar"


def by_name(uri: str) -> InputFormat | None:
    """Return the format a file's name claims, for files whose content is damaged.

    >>> by_name("00000.TAR.gz"), by_name("00000_stats.json")
    (<InputFormat.WEBDATASET: 'webdataset'>, None)
    """
    name = uri.partition("?")[0].lower()
    if name.endswith(".parquet"):
        return InputFormat.PARQUET
    if name.endswith((".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")):
        return InputFormat.WEBDATASET
    return None


def _is_tar_block(block: bytes) -> bool:
    if len(block) < _HEAD:
        return False
    if not any(block):  # an archive with no members is its end marker alone
        return True
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
