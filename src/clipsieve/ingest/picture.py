"""What the header of an image says, without decoding it."""

import io
import json
import logging
from hashlib import sha256

import exifread

from clipsieve.clip.image_format import ImageFormat, header_size, identify
from clipsieve.clip.pillow_readers import MeteredFile, open_picture
from clipsieve.ingest.outcomes import FAILED_TO_RESIZE, SUCCESS, FetchError, Outcome
from clipsieve.schemas.states import RowFailure

#: EXIF is in the first segments of a file, of which one has 64 KiB at most.
_EXIF_BYTES = 256 << 10
_MAX_EXIF = 64 << 10
#: What stands before it.
_EXIF_MARKS = {ImageFormat.JPEG: b"Exif", ImageFormat.PNG: b"eXIf", ImageFormat.WEBP: b"EXIF"}

logging.getLogger("exifread").setLevel(logging.CRITICAL)


def outcome_of_image(data: bytes) -> Outcome:
    """Return the row of an image's bytes; size and EXIF are None where the header does not say.

    Raises:
      FetchError: these are not bytes of an image of a format that is decoded.
    """
    if not data:
        raise FetchError("zero bytes", status=FAILED_TO_RESIZE)
    format = identify(data)
    if isinstance(format, RowFailure):
        raise FetchError(format.error, status=FAILED_TO_RESIZE)
    width, height = _size(data, format)
    return Outcome(
        SUCCESS,
        data=data,
        width=width,
        height=height,
        exif=_exif(data, format),
        sha256=sha256(data).hexdigest(),
    )


def _size(data: bytes, format: ImageFormat) -> tuple[int, int] | tuple[None, None]:
    """Width and height; damage is for the decoder to find."""
    if format is ImageFormat.JPEG:
        size = _jpeg_size(data)
    elif format in (ImageFormat.GIF, ImageFormat.WEBP):
        size = header_size(data, format)
    else:
        try:
            with open_picture(data, format) as picture:
                size = picture.size
        except Exception:  # Pillow raises what it likes for damaged bytes
            size = None
    is_sound = size is not None and 0 < min(size) and max(size) < 1 << 31
    return size if size is not None and is_sound else (None, None)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the frame header of a JPEG (ITU-T T.81, B.2.2)."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[at + 5 : at + 7], "big")
            return int.from_bytes(data[at + 7 : at + 9], "big"), height
        if marker == 0xDA:
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _exif(data: bytes, format: ImageFormat) -> str | None:
    """EXIF as img2dataset writes it; `{}` if there is none, None if it cannot be read.

    Only of formats that keep it in a part of its own; a directory may name the same bytes over and
    over, so reads are metered.
    """
    mark = _EXIF_MARKS.get(format)
    if mark is None or data.find(mark, 0, _EXIF_BYTES) < 0:
        return "{}"
    file = MeteredFile(data[:_EXIF_BYTES])
    file.metered = True
    try:
        tags = exifread.process_file(io.BufferedReader(file), details=False)
        text = json.dumps({k: str(v).strip() for k, v in tags.items() if v is not None})
    except Exception:  # exifread raises what it likes for damaged bytes
        return None
    return text if len(text) <= _MAX_EXIF else None
