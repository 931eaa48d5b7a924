"""Time `decode_image` against open_clip's Pillow transform, one thread, file bytes to pixels.

    python benchmarks/decode.py --repeats 30

Pictures are photographs from scikit-learn and scikit-image, re-encoded as JPEG.  Both sides end
with what is stacked into a batch: uint8 pixels here, a normalised float32 tensor there (ours is
normalised later, for the whole batch on the device).  Runs are interleaved, medians are printed.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import simplejpeg
import skimage
import sklearn.datasets
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from clipsieve.clip.decode import decode_image
from clipsieve.clip.preprocess import Preprocess, resize_and_crop

#: File bytes, the same as a tensor, decoded (3, H, W) pixels.
Picture = tuple[bytes, torch.Tensor, torch.Tensor]

SIZES = ((256, 256), (384, 256), (512, 341), (640, 427), (640, 640), (1600, 1067))


def main() -> None:
    """Print one row per picture size and the ratio over sizes up to 640."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30, help="runs of each picture")
    parser.add_argument("--quality", type=int, default=85, help="JPEG quality")
    parser.add_argument("--size", type=int, default=224, help="model input, pixels")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = PreprocessCfg(size=options.size)
    preprocess = Preprocess.from_config(asdict(config))
    transform = image_transform_v2(config, is_train=False)

    ways: list[Callable[[Picture], object]] = [
        lambda picture: transform(Image.open(io.BytesIO(picture[0]))),
        lambda picture: decode_image(picture[0], preprocess),
        lambda picture: simplejpeg.decode_jpeg(picture[0], "RGB"),
        lambda picture: decode_jpeg(picture[1], mode=ImageReadMode.RGB),
        lambda picture: Image.open(io.BytesIO(picture[0])).load(),
        lambda picture: resize_and_crop(picture[2], preprocess),
    ]
    print("milliseconds a picture (median)")
    print(f"{'size':>11} {'open_clip':>9} {'ours':>6} {'ratio':>6} | parts: ", end="")
    print("simplejpeg torchvision pillow | resize_and_crop")
    ratios = []
    for width, height in SIZES:
        files = [encode(image, width, height, options.quality) for image in photographs()]
        arrays = [np.array(simplejpeg.decode_jpeg(data)) for data in files]
        tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
        buffers = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        pictures = list(zip(files, buffers, tensors, strict=True))
        times = interleaved(ways, pictures, options.repeats)
        ratio = times[0] / times[1]
        if max(width, height) <= 640:
            ratios.append(ratio)
        print(
            f"{width:>5}x{height:<5} {times[0]:>9.2f} {times[1]:>6.2f} {ratio:>6.2f} |        "
            f"{times[2]:>10.2f} {times[3]:>11.2f} {times[4]:>6.2f} | {times[5]:.2f}"
        )
    print(f"ratio up to 640 pixels, geometric mean: {statistics.geometric_mean(ratios):.2f}")


def photographs() -> list[Image.Image]:
    """Six photographs, RGB."""
    images = Path(sklearn.datasets.__file__).parent / "images"
    data = Path(skimage.__file__).parent / "data"
    paths = [images / "china.jpg", images / "flower.jpg"]
    paths += [data / f"{name}.png" for name in ("astronaut", "chelsea", "coffee")]
    paths.append(data / "rocket.jpg")
    return [Image.open(path).convert("RGB") for path in paths]


def encode(image: Image.Image, width: int, height: int, quality: int) -> bytes:
    """The picture as JPEG bytes of that size."""
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


def interleaved(
    ways: list[Callable[[Picture], object]], pictures: list[Picture], repeats: int
) -> list[float]:
    """Median milliseconds of each way over all pictures, the ways taking turns."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for picture in pictures:
            for way, record in zip(ways, times, strict=True):
                start = time.perf_counter()
                way(picture)
                record.append((time.perf_counter() - start) * 1000)
    return [statistics.median(record) for record in times]


if __name__ == "__main__":
    main()
