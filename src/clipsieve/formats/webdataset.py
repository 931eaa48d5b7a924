"""Webdataset tars: one work item a tar, read as a stream, columns from the first samples.

Rows that img2dataset failed to fetch are in no tar; those of a sidecar are joined to it.

A tar that is cut off or damaged is an error, where `tarfile` takes it for the end.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import BinaryIO, NoReturn, Self, cast

from clipsieve.errors import UsageError
from clipsieve.formats.base import (
    Format,
    InputFormat,
    InputPlan,
    ReadOptions,
    RowBatch,
    Shard,
    SourceConfig,
    SourceFingerprint,
    WorkItem,
    problems_note,
)
from clipsieve.formats.inputs import file_fingerprint, open_binary, require_unchanged
from clipsieve.formats.names import fitted_name, plural, shard_name
from clipsieve.formats.samples import (
    MAX_JSON_BYTES,
    PICTURES,
    PROBED_SAMPLES,
    TEXT_FILE,
    Sample,
    SampleLimits,
    batch_samples,
    caption_note,
    learn_columns,
)
from clipsieve.formats.sidecar import (
    find_sidecars,
    join_sidecar,
    joined_fingerprint,
    sidecar_rows,
)

_PROBED_TARS = 3
_BLOCK = 512
# Extended headers (long names, PAX records) are read whole; honest ones have a few kB.
_MAX_EXTENDED_HEADER = 1 << 20
# A compressed tar may unfold to a multiple of its size: pictures do not shrink, text does tenfold.
_MAX_RATIO = 100
_MIN_UNFOLDED = 64 << 20
_MAX_MEMBERS = 1000  # of one sample
_COUNT_BYTES = 1 << 20
_CHUNK = 1 << 14  # tarfile copies what is left of its buffer on every read: small is fast


class WebDataset(Format):
    """Tar files, the members of one row side by side."""

    name = InputFormat.WEBDATASET
    label = "a webdataset tar"
    suffixes = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")

    def sniff(self, file: BinaryIO) -> bool:
        """Look for a member header, or the end marker of an empty tar, under any compression."""
        try:
            block = decompress(file).read(_BLOCK)
        except (OSError, EOFError, zlib.error, lzma.LZMAError):
            return False
        if len(block) < _BLOCK:
            return False
        if not any(block):  # an archive with no members is its end marker alone
            return True
        try:
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return False
        return True

    def plan(self, shards: Sequence[Shard], options: ReadOptions) -> InputPlan:
        """Learn extensions and fields from the first samples, and fields from sidecars."""
        scan = find_sidecars(shards, self.suffixes)
        shards = scan.shards
        samples, place = _first_samples(shards, options, scan.sidecars)
        seen = dict.fromkeys(extension for sample in samples for extension in sample.extensions)
        image = None if options.image_col is None else options.image_col.lower().lstrip(".")
        if image is not None and image not in seen and samples:
            raise UsageError(
                f"image_col {options.image_col!r} is not the extension of a member of {place}; "
                f"its members are {', '.join(seen)}"
            )
        pictures = [extension for extension in seen if extension in PICTURES]
        if image is None and not pictures and samples:
            raise UsageError(
                f"no pictures in {place}: its members are {', '.join(seen)}; name the extension "
                "of the pictures with image_col"
            )
        columns = learn_columns(samples, place, self.name, options, scan.columns)
        items = tuple(
            WorkItem(
                shard=fitted_name(options.shard_prefix + shard_name(shard.relative)),
                uri=shard.uri,
                format=InputFormat.WEBDATASET,
                start=0,
                row_groups=None,
                fingerprint=shard.fingerprint,
                problem=shard.problem,
                sidecar=scan.sidecars.get(shard.uri),
            )
            for shard in shards
        )
        parts = [
            "img2dataset webdataset" if columns.img2dataset else "webdataset",
            plural(len(shards), "shard"),
            "rows counted on reading",
            f"image members {image or '|'.join(pictures) or 'not seen yet'}",
            caption_note(columns.caption),
            columns.uid_note(),
        ]
        text = ", ".join(parts)
        unread = [name for name in seen if name not in {*PICTURES, TEXT_FILE, "json", image}]
        if unread:
            text += f"; members not read: {', '.join(unread)}"
        text += f"; {scan.note}" if scan.note else ""
        text += columns.carried.renaming_note() + problems_note(items)
        source = columns.source(self.name, "webdataset", options, image, columns.caption)
        return InputPlan(items, source, text)

    def read(self, item: WorkItem, source: SourceConfig) -> Iterator[RowBatch]:
        """Read the tar from its beginning to its end, beside its sidecar if it has one."""
        require_unchanged(item, self.fingerprint(item))
        samples = tar_samples(item.uri, source.image, SampleLimits.from_source(source))
        if item.sidecar is not None:
            rows = sidecar_rows(item, source.byte_budget)
            samples = join_sidecar(rows, samples, source.byte_budget)
        yield from batch_samples(samples, source, item.start)

    def count(self, item: WorkItem) -> int:
        """Count the samples in the member headers, and the rows of a sidecar.

        The whole tar is passed over.
        """
        samples = tar_samples(item.uri, None, None)
        if item.sidecar is not None:
            rows = sidecar_rows(item, _COUNT_BYTES, only=["key", "status"])
            samples = join_sidecar(rows, samples, _COUNT_BYTES)
        return sum(1 for _ in samples)

    def fingerprint(self, item: WorkItem) -> SourceFingerprint:
        """Return size and version of the tar, and of its sidecar."""
        tar = file_fingerprint(item.uri)
        if item.sidecar is None:
            return tar
        return joined_fingerprint(tar, file_fingerprint(item.sidecar))


def decompress(file: BinaryIO) -> BinaryIO:
    """Return the stream, undoing gzip, bzip2 or xz if its first bytes say so.

    Unlike `tarfile`'s own, these readers check checksums and notice a cut-off end.
    """
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(file))
    if magic == b"\xfd7zXZ\x00":
        return cast(BinaryIO, lzma.LZMAFile(file))
    return file


# Not in the stubs; `EOFHeaderError` is the zero block that ends an archive.
_BadHeader: type[Exception] = tarfile.HeaderError
_EndMarker: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_NoHeader: tuple[type[Exception], ...] = (
    tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
)


#: `tarfile` reads at the end once or twice before it notices.
_MAX_READS_AT_END = 8
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _TarStream:
    """The bytes of a tar: no more of them than is plausible, and no waiting behind their end.

    A compressed file may unfold to so many times its size.  `tarfile` skips what a member claims to
    hold in steps of a buffer, and goes on doing so after the end: 2**88 bytes take for ever.
    """

    def __init__(self, stream: BinaryIO, raw: BinaryIO) -> None:
        self._stream, self._raw, self._unfolded = stream, raw, 0
        self._reads_at_end = 0

    def read(self, size: int) -> bytes:
        """Read as a file does.

        Raises:
          ValueError: far more came out than went in.
          tarfile.ReadError: the end was read again and again.
        """
        content = self._stream.read(size)
        if not content:
            self._reads_at_end += 1
            if self._reads_at_end > _MAX_READS_AT_END:
                raise tarfile.ReadError("the tar is cut off inside a member")
        self._unfolded += len(content)
        is_compressed = self._stream is not self._raw
        if is_compressed and self._unfolded > max(_MIN_UNFOLDED, _MAX_RATIO * self._raw.tell()):
            raise ValueError(
                f"its first {self._raw.tell():,} bytes unfold to over {self._unfolded:,}, more "
                f"than {_MAX_RATIO} times as many; a decompression bomb is not read"
            )
        return content


class _StrictInfo(tarfile.TarInfo):
    """A member header that must be whole: `tarfile` takes a missing or bad one for the end."""

    def _proc_member(self, tarfile: tarfile.TarFile) -> tarfile.TarInfo:
        most = _MAX_EXTENDED_HEADER if self.type in _EXTENDED else self.size
        if not 0 <= self.size <= most:
            _refuse(ValueError(f"{self.name} claims a header of {self.size:,} bytes"))
        return super()._proc_member(tarfile)  # type: ignore[no-any-return,misc]

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except _EndMarker:
            raise
        except _BadHeader as error:
            _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    if isinstance(error, _NoHeader):
        raise tarfile.ReadError("the tar is cut off: its end marker is missing") from error
    raise tarfile.ReadError(f"damaged member header: {error}") from error


def tar_samples(uri: str, image: str | None, limits: SampleLimits | None) -> Iterator[Sample]:
    """Yield the samples of a tar in order: members that follow each other with one key.

    As in webdataset, the key is a member's path up to the first dot of its file name and the
    rest is the extension, compared in lower case.  A key that comes again later, or with an
    extension the sample already has, begins a new sample.  Of several pictures in one sample
    the first counts.  Directories, links and names that begin with a dot are no members.

    Args:
      uri: the tar; gzip, bzip2 and xz are undone.
      image: extension of the picture; None is any picture extension.
      limits: how much of the members to read; None is nothing: every `Sample` has its key and
        extensions alone.

    Raises:
      ValueError: the compressed stream is a bomb, or a sample has too many members.
      tarfile.ReadError: cut off, damaged, or more data after the end marker.
      EOFError: the compressed stream is cut off; zlib.error, OSError, lzma.LZMAError: damaged.
    """
    sample: Sample | None = None
    with (
        open_binary(uri) as raw,
        decompress(raw) as stream,
        tarfile.open(
            fileobj=cast(BinaryIO, _TarStream(stream, raw)),
            mode="r|",
            bufsize=_CHUNK,
            tarinfo=_StrictInfo,
        ) as archive,
    ):
        last_key = None
        for member in archive:
            # Or every header of the archive stays in memory.
            archive.members = []  # type: ignore[attr-defined]
            folder, _, name = member.name.rpartition("/")
            if not member.isreg() or name.startswith("."):
                continue
            stem, _, extension = name.partition(".")
            key, extension = f"{folder}/{stem}" if folder else stem, extension.lower()
            if sample is None or key != last_key or extension in sample.extensions:
                if sample is not None:
                    yield sample
                # A name that is not UTF-8 has lone surrogates, which no column can hold.
                shown = key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                sample, last_key = Sample(shown), key
            if len(sample.extensions) == _MAX_MEMBERS:
                raise ValueError(f"sample {sample.key} has over {_MAX_MEMBERS:,} members")
            sample.extensions.append(extension)
            if limits is not None:
                _read_member(sample, extension, image, archive, member, limits)
        if sample is not None:
            yield sample
        _require_end(archive)


def _read_member(
    sample: Sample,
    extension: str,
    image: str | None,
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    limits: SampleLimits,
) -> None:
    """Put a member's content into its sample, if it has a place there."""
    is_picture = extension in PICTURES if image is None else extension == image
    if is_picture and sample.image is None and not sample.image_bytes:
        sample.image_bytes = member.size
        if member.size <= limits.image:
            sample.image = _read(archive, member, member.size)
    elif extension == TEXT_FILE:
        sample.text_bytes = member.size
        sample.text = _read(archive, member, min(member.size, limits.text))
    elif extension == "json":
        sample.json_bytes = member.size
        if member.size <= MAX_JSON_BYTES:
            sample.json = _read(archive, member, member.size)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> bytes:
    file = archive.extractfile(member)
    content = b"" if file is None else file.read(size)
    if len(content) != size:
        raise tarfile.ReadError(f"the tar is cut off inside {member.name}")
    return content


def _require_end(archive: tarfile.TarFile) -> None:
    """Raise if anything but padding follows the end marker; also checks the gzip checksum."""
    stream = archive.fileobj
    while stream is not None and (block := stream.read(_CHUNK)):
        if block.count(0) != len(block):
            raise tarfile.ReadError("there is data after the tar's end marker: joined tars?")


def _first_samples(
    shards: Sequence[Shard], options: ReadOptions, sidecars: Mapping[str, str]
) -> tuple[list[Sample], str]:
    """Return samples of the first tars that have any, without images, and the first such tar.

    Where no tar has a sample, because all downloads failed, the first sidecar is that place.
    """
    samples: list[Sample] = []
    places: list[str] = []
    problems = []
    for shard in shards:
        before = len(samples)
        try:
            if shard.problem is not None:
                problems.append(f"{shard.uri}: {shard.problem}")
            else:
                probed = tar_samples(shard.uri, None, SampleLimits.from_options(options))
                samples += islice(probed, PROBED_SAMPLES)
        except Exception as error:  # reading the shard will raise; what came before it counts
            problems.append(f"{shard.uri}: {error}")
        if len(samples) > before:
            places.append(shard.uri)
        if len(places) == _PROBED_TARS:
            break
    if not places and sidecars:
        return [], next(iter(sidecars.values()))
    if not places:
        first = problems[0] if problems else f"{shards[0].uri} has no members"
        raise UsageError(
            f"none of the {len(shards):,} tars has a sample that can be read, first {first}; "
            "replace the files or check the path"
        )
    return samples, places[0]
