"""The formats behind one seam, and what importing them costs."""

import io
import subprocess
import sys

import pytest

from clipsieve.formats.base import Format, InputFormat
from clipsieve.formats.registry import FORMATS
from tests.formats.files import N, img2dataset_table, sample, tar_bytes, write_parquet

HEAVY = ("torch", "apache_beam", "duckdb", "open_clip", "fsspec")


def test_every_format_has_its_module():
    assert set(FORMATS) == set(InputFormat)
    for name, format in FORMATS.items():
        assert isinstance(format, Format)
        assert format.name is name


def test_content_is_recognized_by_one_format_only(tmp_path):
    table = write_parquet(tmp_path / "a.parquet", img2dataset_table()).read_bytes()
    contents = {
        InputFormat.PARQUET: table,
        InputFormat.WEBDATASET: tar_bytes(sample("a", jpg=b"1")),
        None: b"neither",
    }
    for name, content in contents.items():
        owners = [key for key, format in FORMATS.items() if format.sniff(io.BytesIO(content))]
        assert owners == ([] if name is None else [name])


@pytest.mark.parametrize(
    "program", ["", "print(sum(map(len, read_rows(item, source))), count_rows(item))"]
)
def test_formats_import_nothing_heavy_and_fsspec_for_listing_only(tmp_path, program):
    """`status` and `reconcile` start fast; a worker that is given an item lists nothing."""
    path = write_parquet(tmp_path / "a.parquet", img2dataset_table())
    code = f"""
import sys
import pyarrow as pa
from clipsieve.formats.base import InputFormat, SourceConfig, WorkItem
from clipsieve.formats.inputs import file_fingerprint
from clipsieve.formats.registry import count_rows, read_rows
uri, parquet = {str(path)!r}, InputFormat.PARQUET
item = WorkItem("a", uri, parquet, 0, None, file_fingerprint(uri))
source = SourceConfig(
    parquet, "parquet", "jpg", "caption", None, None, (), pa.schema([]), (), None, 9
)
{program}
print([name for name in {HEAVY} if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [*([f"{N} {N}"] if program else []), "[]"]
