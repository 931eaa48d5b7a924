"""Samples of a webdataset tar, read as a stream; a tar that is cut off or damaged is an error."""

import tarfile
from collections.abc import Iterator
from typing import NoReturn, Self

from clipsieve.read.samples import Sample
from clipsieve.read.sniff import PICTURES, decompressed
from clipsieve.read.storage import open_binary

_CHUNK = 1 << 14  # tarfile copies what is left of its buffer on every read: small is fast


class _StrictInfo(tarfile.TarInfo):
    """A member header that must be whole: `tarfile` takes a missing or bad one for the end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except _EndMarker:
            raise
        except _BadHeader as error:
            _refuse(error)


# Not in the stubs; `EOFHeaderError` is the zero block that ends an archive.
_BadHeader: type[Exception] = tarfile.HeaderError
_EndMarker: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_NoHeader: tuple[type[Exception], ...] = (
    tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
)


def _refuse(error: Exception) -> NoReturn:
    if isinstance(error, _NoHeader):
        raise tarfile.ReadError("the tar is cut off: its end marker is missing") from error
    raise tarfile.ReadError(f"damaged member header: {error}") from error


def tar_samples(uri: str, image: str | None, *, content: bool = True) -> Iterator[Sample]:
    """Yield the samples of a tar in order: members that follow each other with one key.

    As in webdataset, the key is a member's path up to the first dot of its file name and the
    rest is the extension, compared in lower case.  A key that comes again later, or with an
    extension the sample already has, begins a new sample.  Of several pictures in one sample
    the first counts.  Directories, links and names that begin with a dot are no members.

    Args:
      uri: the tar; gzip, bzip2 and xz are undone.
      image: extension of the picture; None is any picture extension.
      content: read the members; without, every `Sample` has its key and extensions alone.

    Raises:
      tarfile.ReadError: cut off, damaged, or more data after the end marker.
      EOFError: the compressed stream is cut off; zlib.error, OSError, lzma.LZMAError: damaged.
    """
    sample: Sample | None = None
    with (
        open_binary(uri) as raw,
        decompressed(raw) as stream,
        tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK, tarinfo=_StrictInfo) as archive,
    ):
        for member in archive:
            # Or every header of the archive stays in memory.
            archive.members = []  # type: ignore[attr-defined]
            folder, _, name = member.name.rpartition("/")
            if not member.isreg() or name.startswith("."):
                continue
            stem, _, extension = name.partition(".")
            key, extension = f"{folder}/{stem}" if folder else stem, extension.lower()
            if sample is None or key != sample.key or extension in sample.extensions:
                if sample is not None:
                    yield sample
                sample = Sample(key)
            sample.extensions.append(extension)
            if content:
                _take(sample, extension, image, archive, member)
        if sample is not None:
            yield sample
        _require_end(archive)


def _take(
    sample: Sample,
    extension: str,
    image: str | None,
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
) -> None:
    pictured = extension in PICTURES if image is None else extension == image
    if pictured and sample.image is None:
        sample.image = _read(archive, member)
    elif extension == "txt":
        sample.text = _read(archive, member)
    elif extension == "json":
        sample.json = _read(archive, member)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) != member.size:
        raise tarfile.ReadError(f"the tar is cut off inside {member.name}")
    return content


def _require_end(archive: tarfile.TarFile) -> None:
    """Raise if anything but padding follows the end marker; also checks the gzip checksum."""
    stream = archive.fileobj
    while stream is not None and (block := stream.read(_CHUNK)):
        if block.count(0) != len(block):
            raise tarfile.ReadError("there is data after the tar's end marker: joined tars?")
