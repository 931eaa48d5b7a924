"""The other layouts hold the same records as the Parquet shards."""

import json
import tarfile

import pyarrow.parquet as pq
import pytest

from clipsieve.demo.layouts import write_folder, write_hf_parquet, write_webdataset
from clipsieve.demo.records import Record, make_record

ROWS, SEED = 120, 3


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [make_record(SEED, index) for index in range(ROWS)]


def test_tars_hold_the_successful_downloads_in_order(records, tmp_path):
    paths = write_webdataset(tmp_path, ROWS, 2, SEED)
    members = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                members[member.name] = file.read()
    successes = [record for record in records if record.file is not None]
    assert [data for name, data in members.items() if name.endswith(".jpg")] == [
        record.file for record in successes
    ]
    texts = [data.decode() for name, data in members.items() if name.endswith(".txt")]
    assert texts == [record.caption or "" for record in successes]
    columns = [json.loads(data) for name, data in members.items() if name.endswith(".json")]
    assert [row["uid"] for row in columns] == [record.uid for record in successes]
    assert [row["caption"] for row in columns] == [record.caption for record in successes]
    assert len({name.split(".")[0] for name in members}) == len(successes)


def test_tars_are_the_same_each_time(tmp_path):
    first = [path.read_bytes() for path in write_webdataset(tmp_path / "a", 40, 2, SEED)]
    second = [path.read_bytes() for path in write_webdataset(tmp_path / "b", 40, 2, SEED)]
    assert first == second


def test_folder_has_a_line_for_each_file(records, tmp_path):
    metadata = write_folder(tmp_path, ROWS, SEED)
    lines = [json.loads(line) for line in metadata.read_text(encoding="utf-8").splitlines()]
    successes = [record for record in records if record.file is not None]
    assert [(line["uid"], line["text"]) for line in lines] == [
        (record.uid, record.caption) for record in successes
    ]
    assert [(tmp_path / line["file_name"]).read_bytes() for line in lines] == [
        record.file for record in successes
    ]
    assert len(list(tmp_path.glob("*.jpg"))) == len(successes)


def test_hugging_face_rows_have_an_image_struct(records, tmp_path):
    paths = write_hf_parquet(tmp_path, ROWS, 2, SEED)
    assert [path.name for path in paths] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert [row["text"] for row in rows] == [record.caption for record in records]
    files = [row["image"] and row["image"]["bytes"] for row in rows]
    assert files == [record.file for record in records]
    features = json.loads(pq.read_schema(paths[0]).metadata[b"huggingface"])
    assert features["info"]["features"]["image"]["_type"] == "Image"
