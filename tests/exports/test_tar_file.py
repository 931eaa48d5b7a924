"""Tars, byte for byte those of `tarfile`."""

import io
import tarfile

import pytest

from clipsieve.exports.tar_file import TarWriter, tar_header


@pytest.mark.parametrize("sizes", [[], [0], [1, 511, 512, 513], [9000], [10240 - 1024 - 512]])
def test_an_archive_is_that_of_tarfile(sizes):
    ours, theirs = io.BytesIO(), io.BytesIO()
    writer = TarWriter(ours)
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, size in enumerate(sizes):
            content, info = bytes([number]) * size, tarfile.TarInfo(f"{number:09d}.jpg")
            info.size = size
            archive.addfile(info, io.BytesIO(content))
            writer.add(info.name, content)
    writer.close()
    assert ours.getvalue() == theirs.getvalue()


def test_what_a_header_cannot_say_is_refused():
    assert len(tar_header("x" * 100, 8**11 - 1)) == 512
    for name, size in (("x" * 101, 1), ("x", 8**11)):
        with pytest.raises(ValueError, match="too large"):
            tar_header(name, size)
