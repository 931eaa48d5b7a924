"""What a file's first bytes say: its format, its size, and what it is if not a picture.

Nothing here decodes; it is what lets limits be checked before any decoder runs.
"""

import re
import struct
from enum import StrEnum

from PIL import features

from clipsieve.schemas.states import RowFailure, RowState


class ImageFormat(StrEnum):
    """The allow-list of picture formats."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    GIF = "GIF"
    BMP = "BMP"
    TIFF = "TIFF"
    AVIF = "AVIF"


#: Formats this installation can decode.
SUPPORTED = frozenset(
    format
    for format in ImageFormat
    if not (format is ImageFormat.AVIF and not features.check("avif"))
    and not (format is ImageFormat.WEBP and not features.check("webp"))
)

_PREFIXES: tuple[tuple[bytes, ImageFormat], ...] = (
    (b"\xff\xd8\xff", ImageFormat.JPEG),
    (b"\x89PNG\r\n\x1a\n", ImageFormat.PNG),
    (b"GIF87a", ImageFormat.GIF),
    (b"GIF89a", ImageFormat.GIF),
    (b"BM", ImageFormat.BMP),
    (b"II*\0", ImageFormat.TIFF),
    (b"MM\0*", ImageFormat.TIFF),
    (b"II+\0", ImageFormat.TIFF),
    (b"MM\0+", ImageFormat.TIFF),
)

_OTHER_PICTURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"v/1\x01", "OpenEXR"),
    (b"DDS ", "DDS"),
    (b"icns", "ICNS"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
)

_OTHER_FILES: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip data"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "an Ogg stream"),
    (b"ID3", "an MP3 file"),
)

#: ISO media brands of AVIF pictures; `mif1` and `msf1` are shared with HEIC.
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def identify(data: bytes) -> ImageFormat | RowFailure:
    """The picture format of `data` if it is on the allow-list, else why not.

    Returns:
        The format; or a failure in state `unsupported_format` (a picture of another format, named
        in the error) or `decode_error` (not a picture: the error says what it looks like).
    """
    for prefix, format in _PREFIXES:
        if data.startswith(prefix):
            return format
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _if_supported(ImageFormat.WEBP)
    if data[4:8] == b"ftyp":
        return _identify_iso_media(data)
    for prefix, name in _OTHER_PICTURES:
        if data.startswith(prefix):
            return _unsupported(name)
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n\0").lower()
    if head.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in head:
        return _unsupported("SVG")
    if re.match(rb"p[1-7]\s", head):
        return _unsupported("PNM")
    return RowFailure(RowState.DECODE_ERROR, f"not an image: {_describe(data, head)}")


def header_size(data: bytes, format: ImageFormat) -> tuple[int, int] | None:
    """Width and height from the header, for formats whose Pillow reader allocates on opening.

    Returns:
        (width, height) for GIF (its screen, or its first frame if that reaches further) and
        WebP (its canvas), None for other formats and for headers that are cut short or damaged.
    """
    try:
        if format is ImageFormat.GIF:
            return _gif_size(data)
        if format is ImageFormat.WEBP:
            return _webp_size(data)
    except (struct.error, IndexError):
        return None
    return None


def jpeg_scan_count(data: bytes) -> int:
    """Upper bound of the scans a JPEG decoder must run over the whole picture.

    1 for a file whose first scan holds every component of a sequential picture.  A few hundred
    bytes can ask for another pass over all pixels, so this times the pixels is the real work.
    Damaged headers count 0: the decoder will refuse them.
    """
    position = 2
    components = 0
    progressive = False
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            components = data[position + 9] if position + 9 < len(data) else 0
        if marker == 0xDA:
            if not progressive and data[position + 4 : position + 5] == bytes([components]):
                return 1
            return data.count(b"\xff\xda", position)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return 0


def _identify_iso_media(data: bytes) -> ImageFormat | RowFailure:
    """AVIF, HEIC or a video, by the brands of the leading `ftyp` box."""
    length = min(int.from_bytes(data[:4], "big"), 4096)
    major = data[8:12]
    brands = {major, *(data[start : start + 4] for start in range(16, length - 3, 4))}
    if major in _AVIF_BRANDS or (major in (b"mif1", b"msf1") and brands & set(_AVIF_BRANDS)):
        return _if_supported(ImageFormat.AVIF)
    if major in _HEIC_BRANDS:
        return _unsupported("HEIC")
    return RowFailure(
        RowState.DECODE_ERROR, f"not an image: looks like an MP4 or QuickTime video ({major!r})"
    )


def _if_supported(format: ImageFormat) -> ImageFormat | RowFailure:
    return format if format in SUPPORTED else _unsupported(f"{format} (this Pillow has no decoder)")


def _unsupported(name: str) -> RowFailure:
    allowed = ", ".join(format for format in ImageFormat if format in SUPPORTED)
    return RowFailure(
        RowState.UNSUPPORTED_FORMAT, f"picture format {name} is not supported, only {allowed}"
    )


def _describe(data: bytes, head: bytes) -> str:
    """What bytes that are no picture look like, with their beginning."""
    if not data.strip(b"\0"):
        return f"{len(data):,} zero-valued bytes"
    start = repr(data[:32])[1:]
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return f"looks like an HTML page, starts with {start}"
    if head.startswith((b"<?xml", b"<")):
        return f"looks like XML or HTML, starts with {start}"
    if head.startswith((b"{", b"[")):
        return f"looks like JSON, starts with {start}"
    for prefix, name in _OTHER_FILES:
        if data.startswith(prefix):
            return f"looks like {name}, starts with {start}"
    if data[:64].isascii() and data[:64].decode("ascii").isprintable():
        return f"looks like text, starts with {start}"
    return f"unknown format, starts with {start}"


def _gif_size(data: bytes) -> tuple[int, int]:
    """Screen size, enlarged to hold the first frame (GIF89a sections 18, 20)."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0)
    while data[position] != 0x3B:  # trailer
        if data[position] == 0x2C:
            left, top, columns, rows = struct.unpack_from("<HHHH", data, position + 1)
            return max(width, left + columns), max(height, top + rows)
        if data[position] == 0x21:  # extension: label, then sub-blocks up to an empty one
            position += 2
            while data[position]:
                position += 1 + data[position]
        position += 1
    return width, height


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Canvas size of the three kinds of WebP (RFC 9649 sections 2.5-2.7)."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        return width + 1, height + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
