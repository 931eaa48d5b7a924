"""The file extension of an encoded picture, from its first bytes."""

_PREFIXES = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"II+\0", "tif"),
    (b"MM\0+", "tif"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
)
#: Major brands of ISO media files that hold pictures.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1"), "heic"),
}


def picture_extension(picture: bytes) -> str | None:
    r"""Return the extension of a picture's format, None if the bytes begin as no known one.

    Does not depend on what can be decoded here.

    >>> picture_extension(b"\x89PNG\r\n\x1a\n..."), picture_extension(b"<html>")
    ('png', None)
    """
    for prefix, extension in _PREFIXES:
        if picture.startswith(prefix):
            return extension
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return "webp"
    if picture[4:8] == b"ftyp":
        return _BRANDS.get(picture[8:12])
    return None
