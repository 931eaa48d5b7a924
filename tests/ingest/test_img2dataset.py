"""Real img2dataset on the same server writes the same shards."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.ingest.conftest import Ingesting
from tests.ingest.server import Site

PROGRAM = """
import sys
from img2dataset import download

if __name__ == "__main__":
    download(
        url_list=sys.argv[1], output_folder=sys.argv[2], input_format="parquet", url_col="url",
        caption_col="caption", output_format="parquet", resize_mode="no",
        disable_all_reencoding=True, number_sample_per_shard=100, processes_count=1,
        thread_count=8, save_additional_columns=["uid", "license", "score"], retries=0,
        compute_hash="sha256",
    )
"""


def test_schema_keys_and_bytes_are_those_of_img2dataset(
    site: Site, ingesting: Ingesting, tmp_path: Path, monkeypatch
) -> None:
    urls = [site.url(f"/good/{n}.jpg") for n in range(140)]
    urls[5], urls[120] = site.url("/status/404"), site.url("/exif.jpg")
    site.pages["/exif.jpg"] = _exif_page
    ingesting.write(
        urls,
        uid=[f"{n:032x}" for n in range(140)],
        license=["CC0", None] * 70,
        score=[n / 7 for n in range(140)],
    )
    theirs = tmp_path / "theirs"
    program = tmp_path / "download.py"
    program.write_text(PROGRAM)
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    subprocess.run(
        [sys.executable, str(program), str(ingesting.list), str(theirs)],
        check=True,
        capture_output=True,
    )
    ingesting(rows_per_shard=100, carry="uid,license,score", per_host=8)
    names = [path.name for path in sorted(theirs.glob("*.parquet"))]
    assert names == sorted(ingesting.files()) == ["00000.parquet", "00001.parquet"]
    stats = [path.name for path in sorted(theirs.glob("*_stats.json"))]
    assert stats == [path.name for path in sorted(ingesting.shards.glob("*_stats.json"))]
    for name in names:
        wanted, ours = (pq.read_table(folder / name) for folder in (theirs, ingesting.shards))
        assert ours.schema.equals(wanted.schema, check_metadata=True)
        rows = {row["key"]: row for row in wanted.to_pylist()}
        for row in ours.to_pylist():
            other = rows[row["key"]]
            # It leaves the size out if it does not decode; ours is from the header.
            for column in ("width", "height", "original_width", "original_height"):
                if row["status"] == "success":
                    assert (other.pop(column), row.pop(column)) == (None, 48)
            if row["status"] != "success":
                assert (other.pop("error_message"), row.pop("error_message")) == (
                    "HTTP Error 404: Not Found",
                    "HTTP 404 Not Found",
                )
            assert row == other
    assert "Make" in ingesting.rows()[120]["exif"]


def _exif_page(handler) -> None:
    import io

    from PIL import Image

    from tests.ingest.server import answer

    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.new("RGB", (48, 48), "red").save(content, "JPEG", exif=exif)
    answer(handler, content.getvalue())
