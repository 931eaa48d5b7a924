"""What open_clip does to a picture before the model sees it: resize, crop or pad, normalise.

Two routes give the same (3, H, W) uint8 pixels to within two grey levels (0.02 on average):

* `resize_and_crop` works on a decoded RGB tensor with ATen's antialiased uint8 kernels, which
  are several times faster than Pillow's;
* `resize_and_crop_pillow` runs open_clip's own Pillow operations in its order (resize and crop
  in the file's mode, convert to RGB last), so its result is identical byte for byte.

`normalize` is the rest of the transform, for a whole batch on the model's device.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
import torchvision.transforms.functional as pillow_ops
from PIL import Image

from clipsieve.errors import UsageError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_RESIZE_MODES = ("shortest", "longest", "squash")

#: A resized picture above this many pixels is never made whole: only its crop is computed.
#: 1000 x 3 pixels become 74,666 x 224 (16.7 million) before the crop to 224 x 224.
_MAX_RESIZED_PIXELS = 1 << 24

#: Above this height to width, Pillow may resize vertically first, and each pass rounds and clips.
_PILLOW_TALL = 100


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The picture a model expects; field names and meanings are those of open_clip.

    Attributes:
        size: height and width of the model input, in pixels.
        mean: per-channel mean in [0, 1], RGB order.
        std: per-channel standard deviation, above 0, RGB order.
        interpolation: "bicubic" or "bilinear"; always antialiased.
        resize_mode: "shortest" (shortest side to size, centre crop), "longest" (longest side to
            size, centre pad) or "squash" (both sides to size, aspect ratio lost).
        fill_color: grey level 0-255 of the padding in "longest".

    Raises:
        UsageError: a value is outside these ranges.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    fill_color: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no picture could be preprocessed with."""
        if len(self.size) != 2 or min(self.size) < 1:
            raise UsageError(f"preprocess size must be two integers of at least 1, got {self.size}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(np.isfinite(values)):
                raise UsageError(f"preprocess {name} must be three finite numbers, got {values}")
        if min(self.std) <= 0:
            raise UsageError(f"preprocess std must be above 0, got {self.std}")
        if self.interpolation not in _FILTERS:
            raise UsageError(
                f"interpolation {self.interpolation!r} is not supported; set interpolation to "
                "'bicubic' or 'bilinear' in the model's preprocess_cfg, whichever it was trained "
                "with (open_clip evaluates 'random' as 'bicubic')"
            )
        if self.resize_mode not in _RESIZE_MODES:
            raise UsageError(
                f"resize_mode {self.resize_mode!r} is not supported; set resize_mode to one of "
                f"{', '.join(map(repr, _RESIZE_MODES))} in the model's preprocess_cfg"
            )
        if not 0 <= self.fill_color <= 255:
            raise UsageError(f"fill_color must be an integer in 0-255, got {self.fill_color}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Preprocess":
        """The preprocessing that open_clip's `preprocess_cfg` describes.

        Args:
            config: `asdict(PreprocessCfg(...))` or `model.visual.preprocess_cfg`: size (int, or
                sequence of one or two), mode ("RGB"), mean and std (number or sequence of three),
                interpolation, resize_mode, fill_color (optional, 0).

        Raises:
            UsageError: a key is missing, the mode is not RGB, or a value is out of range.
        """
        try:
            size, mean, std = config["size"], config["mean"], config["std"]
            interpolation, resize_mode = config["interpolation"], config["resize_mode"]
        except KeyError as error:
            raise UsageError(
                f"preprocess_cfg has no {error.args[0]!r}; pass all keys of open_clip's "
                f"PreprocessCfg, got {sorted(config)}"
            ) from error
        if config.get("mode", "RGB") != "RGB":
            raise UsageError(f"preprocess_cfg mode must be 'RGB', got {config['mode']!r}")
        height, width = _repeat(size, 2)
        red, green, blue = (float(value) for value in _repeat(mean, 3))
        red_std, green_std, blue_std = (float(value) for value in _repeat(std, 3))
        return cls(
            size=(int(height), int(width)),
            mean=(red, green, blue),
            std=(red_std, green_std, blue_std),
            interpolation=interpolation,
            resize_mode=resize_mode,
            fill_color=int(config.get("fill_color", 0)),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; equal preprocessing gives equal JSON.

        >>> Preprocess((2, 3), (0, 0, 0), (1, 1, 1), "bicubic", "squash").to_json()["size"]
        [2, 3]
        """
        return {
            "size": list(self.size),
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            "fill_color": self.fill_color,
        }


def resize_and_crop(
    pixels: torch.Tensor, preprocess: Preprocess, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Model-sized pixels, within two grey levels of open_clip's Pillow transform.

    Runs on the calling thread only (no OpenMP team) and without the GIL in the resize.

    Args:
        pixels: (3, H, W) uint8 on the CPU, RGB, H and W at least 1.  Memory of shape (H, W, 3),
            as decoders write it, is fastest.
        preprocess: what the model expects.
        out: (3, h, w) uint8 on the CPU with (h, w) = `preprocess.size`, any strides: where to
            write the result, such as one slot of a batch.

    Returns:
        `out`, or a new contiguous tensor of that shape.

    Raises:
        UsageError: `pixels` or `out` has another shape, dtype or device.
    """
    if pixels.dim() != 3 or pixels.shape[0] != 3 or 0 in pixels.shape or not _is_bytes(pixels):
        raise UsageError(
            "pixels must be a non-empty (3, H, W) uint8 tensor on the CPU, got "
            f"{tuple(pixels.shape)} {pixels.dtype} on {pixels.device}"
        )
    out = output_slot(preprocess, out)
    height, width = resized_size(pixels.shape[1], pixels.shape[2], preprocess)
    if height * width > _MAX_RESIZED_PIXELS or pixels.shape[1] > _PILLOW_TALL * pixels.shape[2]:
        image = Image.fromarray(np.ascontiguousarray(pixels.numpy().transpose(1, 2, 0)))
        return write_image(resize_and_crop_pillow(image, preprocess), out)
    resized = torch.nn.functional.interpolate(
        pixels[None], (height, width), mode=_interpolation(preprocess), antialias=True
    )[0]
    _write_centered(resized.numpy(), out.numpy(), preprocess.fill_color)
    return out


def resize_and_crop_pillow(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Model-sized RGB picture, byte for byte what open_clip's transform makes before `ToTensor`.

    The order is open_clip's: resize and crop (or pad) in the picture's own mode, then convert.
    So palette pictures are resized by nearest neighbour, and alpha is dropped last.  Pictures
    whose whole resized form would exceed 16.8 million pixels (a side ratio above 300 or so) are
    resized within their crop only, which is equal up to rounding of the filter weights.
    """
    target_height, target_width = preprocess.size
    resample = _FILTERS[_interpolation(preprocess)]
    height, width = resized_size(image.height, image.width, preprocess)
    if height * width > _MAX_RESIZED_PIXELS:
        image = _resize_within_crop(image, (height, width), preprocess.size, resample)
    elif (height, width) != (image.height, image.width):
        image = image.resize((width, height), resample)
    vertical, horizontal = target_height - image.height, target_width - image.width
    if vertical > 0 or horizontal > 0:
        top, left = max(vertical, 0) // 2, max(horizontal, 0) // 2
        border = [left, top, max(horizontal, 0) - left, max(vertical, 0) - top]
        image = pillow_ops.pad(image, border, fill=preprocess.fill_color)
    if image.size != (target_width, target_height):
        top = _crop_offset(image.height, target_height)
        left = _crop_offset(image.width, target_width)
        image = image.crop((left, top, left + target_width, top + target_height))
    # Pillow warns about a palette with alpha bytes when it drops them; it drops them anyway.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def normalize(pixels: torch.Tensor, preprocess: Preprocess, dtype: torch.dtype) -> torch.Tensor:
    """The model's input: (pixels / 255 - mean) / std.

    Computed in float32 in open_clip's order of operations, so for float32 it is bit for bit
    open_clip's `ToTensor` and `Normalize` on the CPU.

    Args:
        pixels: (N, 3, H, W) uint8 on any device, RGB; N may be 0.
        preprocess: mean and std.
        dtype: floating dtype of the result.

    Returns:
        (N, 3, H, W) of `dtype` on the device of `pixels`, channels_last memory format.

    Raises:
        UsageError: `pixels` is not a (N, 3, H, W) uint8 tensor, or `dtype` is not floating.
    """
    if pixels.dim() != 4 or pixels.shape[1] != 3 or pixels.dtype != torch.uint8:
        raise UsageError(
            f"pixels must be a (N, 3, H, W) uint8 tensor, got {tuple(pixels.shape)} {pixels.dtype}"
        )
    if not dtype.is_floating_point:
        raise UsageError(f"dtype of the model input must be floating, got {dtype}")
    mean = torch.tensor(preprocess.mean, dtype=torch.float32, device=pixels.device)
    std = torch.tensor(preprocess.std, dtype=torch.float32, device=pixels.device)
    values = pixels.to(torch.float32, memory_format=torch.channels_last)
    values.div_(255).sub_(mean.view(1, 3, 1, 1)).div_(std.view(1, 3, 1, 1))
    return values.to(dtype, memory_format=torch.channels_last)


def resized_size(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    """Height and width after the resize and before crop or padding, each at least 1.

    Rounds as open_clip does: down for square "shortest" (torchvision's `Resize`), to the nearest
    even for the others.  Where open_clip would round a side of "longest" to 0 and fail, it is 1.
    """
    target_height, target_width = preprocess.size
    if preprocess.resize_mode == "squash":
        return target_height, target_width
    if preprocess.resize_mode == "shortest" and target_height == target_width:
        if width <= height:
            return int(target_height * height / width), target_height
        return target_height, int(target_height * width / height)
    ratios = height / target_height, width / target_width
    ratio = max(ratios) if preprocess.resize_mode == "longest" else min(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def output_slot(preprocess: Preprocess, out: torch.Tensor | None) -> torch.Tensor:
    """`out` if it can take one model-sized picture, a new contiguous tensor if it is None."""
    shape = (3, *preprocess.size)
    if out is None:
        return torch.empty(shape, dtype=torch.uint8)
    if tuple(out.shape) != shape or not _is_bytes(out):
        raise UsageError(
            f"out must be a {shape} uint8 tensor on the CPU, got {tuple(out.shape)} {out.dtype} "
            f"on {out.device}"
        )
    return out


def write_image(image: Image.Image, out: torch.Tensor) -> torch.Tensor:
    """Copy an RGB picture of h x w pixels into `out`, (3, h, w) uint8, and return `out`."""
    # NumPy copies on this thread; `Tensor.copy_` would start an OpenMP team in each thread.
    np.copyto(out.numpy(), np.asarray(image).transpose(2, 0, 1))
    return out


def _resize_within_crop(
    image: Image.Image, resized: tuple[int, int], target: tuple[int, int], resample: int
) -> Image.Image:
    """The part of a resize to `resized` (H, W) that a centre crop to `target` (h, w) keeps.

    Only the source pixels under the filter are touched.  They are cut out first, because Pillow
    changes the order of its passes with the shape of what it is given.
    """
    kept, box, size = [], [], []
    for length, whole, wanted in zip(image.size, resized[::-1], target[::-1], strict=True):
        scale = length / whole
        offset, count = _crop_offset(whole, wanted), min(whole, wanted)
        first, last = offset * scale, (offset + count) * scale
        margin = math.ceil(2 * max(scale, 1)) + 1  # bicubic reaches two pixels
        start = max(0, math.floor(first) - margin)
        kept.append((start, min(length, math.ceil(last) + margin)))
        box.append((first - start, last - start))
        size.append(count)
    (left, right), (top, bottom) = kept
    (x0, x1), (y0, y1) = box
    part = image.crop((left, top, right, bottom))
    return part.resize((size[0], size[1]), resample, box=(x0, y0, x1, y1))


def _write_centered(resized: np.ndarray, out: np.ndarray, fill: int) -> None:
    """Copy the centre of `resized` (3, H, W) to `out` (3, h, w), padding short sides."""
    source: list[slice] = [slice(None)]
    target: list[slice] = [slice(None)]
    for size, wanted in zip(resized.shape[1:], out.shape[1:], strict=True):
        if size >= wanted:
            offset = _crop_offset(size, wanted)
            source.append(slice(offset, offset + wanted))
            target.append(slice(None))
        else:
            offset = (wanted - size) // 2
            source.append(slice(None))
            target.append(slice(offset, offset + size))
            out.fill(fill)
    np.copyto(out[tuple(target)], resized[tuple(source)])


def _crop_offset(size: int, wanted: int) -> int:
    """First kept row or column of a centre crop; torchvision rounds halves to even."""
    return round((size - wanted) / 2) if size > wanted else 0


def _interpolation(preprocess: Preprocess) -> str:
    """The filter open_clip uses: "shortest" to a non-square size ignores the setting."""
    height, width = preprocess.size
    if preprocess.resize_mode == "shortest" and height != width:
        return "bicubic"
    return preprocess.interpolation


def _is_bytes(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.uint8 and tensor.device.type == "cpu"


def _repeat(value: Any, count: int) -> Sequence[Any]:
    """`value` as a sequence of `count`: numbers and one-element sequences are repeated."""
    values = [value] if isinstance(value, Real) else list(value)
    if len(values) not in (1, count):
        raise UsageError(f"preprocess_cfg values must be one number or {count}, got {value!r}")
    return values * count if len(values) == 1 else values
