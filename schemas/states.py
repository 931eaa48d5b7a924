"""The fixed vocabulary of row states: every input row ends in exactly one."""

from dataclasses import dataclass
from enum import StrEnum


class RowState(StrEnum):
    """How one input row ended.

    Exactly one state a row; where several would fit, the first below that fits is given, so an
    image that cannot be used outranks a caption that cannot.  Except in `OK`, `error` says why.
    """

    OK = "ok"  #: image and caption were both encoded
    FETCH_FAILED = "fetch_failed"  #: the source says the download failed; there are no bytes
    MISSING_IMAGE = "missing_image"  #: no image bytes, and the source does not say why
    IMAGE_TOO_LARGE = "image_too_large"  #: over the byte, side, pixel or scan limit; never decoded
    UNSUPPORTED_FORMAT = "unsupported_format"  #: a picture format outside the allow-list
    DECODE_ERROR = "decode_error"  #: not an image, truncated or damaged
    EMPTY_CAPTION = "empty_caption"  #: NULL, empty or blank caption; the image was encoded
    INVALID_CAPTION = "invalid_caption"  #: caption bytes are not UTF-8; the image was encoded
    CAPTION_TOO_LONG = "caption_too_long"  #: over the byte limit and cut; the image was encoded
    NONFINITE_EMBEDDING = "nonfinite_embedding"  #: the model returned NaN, inf or a zero vector


@dataclass(frozen=True, slots=True)
class RowFailure:
    """Why a row cannot be scored: a state other than `ok`, and one readable line."""

    state: RowState
    error: str
