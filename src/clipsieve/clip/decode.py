"""Bytes of one picture to pixels at model size, or to the row state that says why not.

Almost every picture of a web dataset is a JPEG: those go through libjpeg-turbo (simplejpeg) and
ATen's antialiased uint8 resize.  Everything else, and every JPEG that libjpeg-turbo reads with a
warning, goes through Pillow exactly as open_clip does, so Pillow decides what is damaged.

Orientation: as in open_clip, EXIF orientation is not applied, except to TIFF, where Pillow's reader
applies it unasked.  Animations give their first frame.

Nothing is logged or warned about; only libtiff writes about damaged compressed TIFF data to stderr.

Threads: `decode_image` is meant for a small thread pool.  libjpeg-turbo, Pillow's codecs and both
resizes run without the GIL, on the calling thread (two threads on two idle cores: 1.8-1.9 times
one).  ATen's
uint8 resize never starts OpenMP threads, and pixels are copied by NumPy because `Tensor.copy_`
of 150 kB would start a team in each decode thread.
"""

import re
import threading
import warnings
from dataclasses import dataclass
from importlib.metadata import version

import simplejpeg
import torch
from PIL import Image

from clipsieve.clip.image_format import ImageFormat, header_size, identify, jpeg_scan_count
from clipsieve.clip.perceptual_hash import perceptual_hash, perceptual_hash_pillow
from clipsieve.clip.pillow_readers import open_picture
from clipsieve.clip.preprocess import (
    Preprocess,
    output_slot,
    resize_and_crop,
    resize_and_crop_pillow,
    write_image,
)
from clipsieve.errors import UsageError
from clipsieve.schemas.states import RowFailure, RowState

#: Pillow's own limit against decompression bombs; above it Pillow warns, at twice it raises.
_PILLOW_MAX_PIXELS = 89_478_485

#: Pillow's remarks on the metadata of damaged TIFF and APNG files.
_METADATA_WARNINGS = r"PIL\.(Tiff|Png)ImagePlugin"

_initializer_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest picture that is decoded; checked against its header before decoding.

    Attributes:
        max_bytes: encoded bytes.
        max_side: pixels of the longer side.
        max_pixels: width times height; at most 89,478,485, above which Pillow refuses too.
        max_scans: passes over the picture in a progressive JPEG; real files have about ten.
        max_scanned_pixels: passes times pixels of a progressive JPEG, about 1.3 ns each; 24 passes
            over the largest picture.

    Raises:
        UsageError: a limit is below 1 or max_pixels is above its bound.
    """

    max_bytes: int = 64 << 20
    max_side: int = 16_384
    max_pixels: int = _PILLOW_MAX_PIXELS
    max_scans: int = 500
    max_scanned_pixels: int = 24 * _PILLOW_MAX_PIXELS

    def __post_init__(self) -> None:
        """Refuse limits that admit nothing, or more than Pillow does."""
        for name in ("max_bytes", "max_side", "max_pixels", "max_scans", "max_scanned_pixels"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_pixels > _PILLOW_MAX_PIXELS:
            raise UsageError(
                f"max_pixels must be at most {_PILLOW_MAX_PIXELS:,} (Pillow's limit), "
                f"got {self.max_pixels:,}"
            )


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One picture ready to be stacked into a batch.

    Attributes:
        pixels: (3, h, w) uint8, RGB, at the model's input size.
        width: pixels of the source as stored, before EXIF orientation and before the resize.
        height: likewise.
        phash: perceptual hash of the whole picture, in [0, 2**64); it does not depend on the model.
    """

    pixels: torch.Tensor
    width: int
    height: int
    phash: int


def decode_image(
    data: bytes,
    preprocess: Preprocess,
    limits: ImageLimits = DEFAULT_LIMITS,
    out: torch.Tensor | None = None,
) -> DecodedImage | RowFailure:
    """Decode, resize and crop one picture; never raises for bad bytes.

    Pictures that take the Pillow route are byte for byte what open_clip's evaluation transform
    makes; JPEGs are within two grey levels of it (0.02 on average).

    Args:
        data: the encoded file.
        preprocess: the model's input size and filter.
        limits: the largest picture that is decoded.
        out: (3, h, w) uint8 CPU tensor of any strides to write the pixels to, such as one slot
            of a batch; undefined content after a failure.

    Returns:
        The picture; or a failure in state `image_too_large` (over a limit, never decoded),
        `unsupported_format` (outside the allow-list) or `decode_error` (no picture, truncated
        or damaged), with one readable line.

    Raises:
        UsageError: `out` has another shape, dtype or device.
    """
    out = output_slot(preprocess, out)
    if not data:
        return RowFailure(RowState.DECODE_ERROR, "zero bytes")
    if len(data) > limits.max_bytes:
        return _too_large(f"{len(data):,} bytes, the limit is {limits.max_bytes:,}")
    format = identify(data)
    if isinstance(format, RowFailure):
        return format
    scans = 1
    if format is ImageFormat.JPEG:
        scans = jpeg_scan_count(data)
        if scans > limits.max_scans:
            return _too_large(f"{scans:,} JPEG scans, the limit is {limits.max_scans:,}")
        decoded = _decode_jpeg(data, scans, preprocess, limits, out)
        if decoded is not None:
            return decoded
    return _decode_with_pillow(data, format, scans, preprocess, limits, out)


def decode_pool_initializer() -> None:
    """Give the calling thread one ATen thread; pass as `ThreadPoolExecutor(initializer=...)`.

    `decode_image` itself starts no team; this keeps other tensor work of a decode thread on that
    thread.  Found by experiment on the OpenMP build of PyTorch 2.15:
    `torch.set_num_threads(n)` changes the calling thread, and the number every thread gets that
    has not run ATen yet; the main thread keeps its own.  So the old number is read first (which
    also marks this thread as set up), and restored from a helper thread, which changes only the
    number for later threads.
    """
    with _initializer_lock:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        helper = threading.Thread(target=torch.set_num_threads, args=(threads,))
        helper.start()
        helper.join()


def decoder_description() -> dict[str, str]:
    """The decoders that determine pixels, with versions, for footers and `clipsieve doctor`."""
    return {
        "jpeg": f"simplejpeg {version('simplejpeg')} (libjpeg-turbo)",
        "other": f"Pillow {version('pillow')}",
        "resize": f"torch {torch.__version__} uint8 antialiased",
    }


def _decode_jpeg(
    data: bytes, scans: int, preprocess: Preprocess, limits: ImageLimits, out: torch.Tensor
) -> DecodedImage | RowFailure | None:
    """The fast path; None if Pillow must look at the file: CMYK, or any libjpeg-turbo warning."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if failure := _check_size(width, height, limits, scans):
            return failure
        if colorspace in ("CMYK", "YCCK"):
            return None
        pixels = simplejpeg.decode_jpeg(data, "RGB")
    except (ValueError, RuntimeError):
        return None
    whole = torch.from_numpy(pixels).permute(2, 0, 1)
    resize_and_crop(whole, preprocess, out)
    return DecodedImage(out, width, height, perceptual_hash(whole))


def _decode_with_pillow(
    data: bytes,
    format: ImageFormat,
    scans: int,
    preprocess: Preprocess,
    limits: ImageLimits,
    out: torch.Tensor,
) -> DecodedImage | RowFailure:
    """open_clip's own operations on the first frame."""
    if (size := header_size(data, format)) and (failure := _check_size(*size, limits)):
        return failure
    _silence_metadata_warnings()
    try:
        image = open_picture(data, format)
        width, height = image.size
        if failure := _check_size(width, height, limits, scans):
            return failure
        if failure := _check_tile(image, limits):
            return failure
        image.load()
        write_image(resize_and_crop_pillow(image, preprocess), out)
        phash = perceptual_hash_pillow(image)
    except Exception as error:  # Pillow's readers raise anything on damaged bytes
        return RowFailure(RowState.DECODE_ERROR, f"damaged {format}: {_one_line(error)}")
    return DecodedImage(out, width, height, phash)


def _check_size(width: int, height: int, limits: ImageLimits, scans: int = 1) -> RowFailure | None:
    if max(width, height) > limits.max_side:
        return _too_large(f"{width:,} x {height:,} pixels, the longest side is {limits.max_side:,}")
    if width * height > limits.max_pixels:
        return _too_large(f"{width:,} x {height:,} pixels, the limit is {limits.max_pixels:,}")
    if scans * width * height > limits.max_scanned_pixels:
        return _too_large(
            f"{scans:,} JPEG scans of {width:,} x {height:,} pixels, the limit is "
            f"{limits.max_scanned_pixels:,} pixels in all scans"
        )
    return None


def _check_tile(image: Image.Image, limits: ImageLimits) -> RowFailure | None:
    """A TIFF is allocated as one tile first, whose size its header gives independently."""
    tile = getattr(image, "_tile_size", image.size)
    return _check_size(tile[0], tile[1], limits)


def _too_large(error: str) -> RowFailure:
    return RowFailure(RowState.IMAGE_TOO_LARGE, error)


def _one_line(error: Exception) -> str:
    """Type and message without line breaks, at most 200 characters."""
    message = re.sub(r"\s+", " ", str(error)).strip()
    return f"{type(error).__name__}: {message}"[:200] if message else type(error).__name__


def _silence_metadata_warnings() -> None:
    """Ignore what Pillow's TIFF and PNG readers say about metadata; pixels are unaffected.

    `warnings.catch_warnings` swaps the process-wide filter list and restores it out of order when
    threads overlap.  Adding one narrow filter to the list in use, if it is not there yet, is
    safe: other modules' filters and all other warnings stay as they are.
    """
    rule = ("ignore", None, UserWarning, _METADATA_PATTERN, 0)
    if rule not in warnings.filters:
        warnings.filterwarnings("ignore", category=UserWarning, module=_METADATA_WARNINGS)


_METADATA_PATTERN = re.compile(_METADATA_WARNINGS)
