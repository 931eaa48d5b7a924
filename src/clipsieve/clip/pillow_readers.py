"""Pillow's file readers for the allow-listed formats, hardened against hostile metadata.

Readers are opened by class: `Image.open` tries every plugin and warns about large sizes, which
are checked here by our own limits.  Two kinds of metadata would undo any limit on pixels:

* A TIFF directory may name 65,535 values that are all the same megabytes of the file, and Pillow
  copies each: 4.7 MB of TIFF took all 23 GB of a machine.  EXIF is such a directory.  TIFF reads
  are therefore metered, and EXIF of JPEG and AVIF, which affects no pixel, is not parsed.
* AVIF decoding starts one thread per CPU in each decode thread; here it uses one.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from clipsieve.clip.image_format import ImageFormat


class MetadataTooLarge(Exception):
    """A directory's values overlap so often that reading them exceeds the file many times."""


class MeteredFile(BytesIO):
    """Bytes of a file of which only a multiple may be read while `metered` is true."""

    def __init__(self, data: bytes) -> None:
        """Allow eight times `data`: an honest directory is read three times and overlaps none."""
        super().__init__(data)
        self.metered = True
        self._allowance = 8 * len(data) + (1 << 20)

    def read(self, size: int | None = -1, /) -> bytes:
        """As `BytesIO.read`, or raise `MetadataTooLarge`."""
        content = super().read(size)
        if self.metered:
            self._allowance -= len(content)
            if self._allowance < 0:
                raise MetadataTooLarge("metadata values overlap: they exceed the file eightfold")
        return content


class _TiffReader(TiffImageFile):
    """Meters directories: all reads on opening, and those for orientation after the pixels."""

    def __init__(self, file: MeteredFile) -> None:
        self._metered_file = file
        super().__init__(file)

    def load_prepare(self) -> None:
        # Short strips are read in long blocks, over and over.
        self._metered_file.metered = False
        super().load_prepare()

    def load_end(self) -> None:
        self._metered_file.metered = True
        super().load_end()


class _JpegReader(JpegImageFile):
    """Leaves EXIF as bytes."""

    def _read_dpi_from_exif(self) -> None:
        pass


class _AvifReader(AvifImageFile):
    """Leaves EXIF as bytes, and decodes on the calling thread."""

    def _open(self) -> None:
        # Imported here: Pillow may be built without AVIF, and then this is never reached.
        from PIL import _avif

        assert self.fp is not None
        self._decoder: Any = _avif.AvifDecoder(self.fp.read(), "auto", 1)
        self._size, self.n_frames, self._mode, *_ = self._decoder.get_info()
        self.is_animated = self.n_frames > 1
        self.seek(0)


_READERS: dict[ImageFormat, Callable[[MeteredFile], ImageFile.ImageFile]] = {
    ImageFormat.JPEG: _JpegReader,
    ImageFormat.PNG: PngImageFile,
    ImageFormat.WEBP: WebPImageFile,
    ImageFormat.GIF: GifImageFile,
    ImageFormat.BMP: BmpImageFile,
    ImageFormat.TIFF: _TiffReader,
    ImageFormat.AVIF: _AvifReader,
}


def open_picture(data: bytes, format: ImageFormat) -> Image.Image:
    """The file as a Pillow picture whose pixels are not read yet.

    Raises:
        Exception: whatever Pillow's reader raises for damaged bytes, or `MetadataTooLarge`.
    """
    file = MeteredFile(data)
    file.metered = format is ImageFormat.TIFF
    return _READERS[format](file)
