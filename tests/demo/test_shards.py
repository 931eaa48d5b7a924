"""Shards have img2dataset's shape, and their bytes depend on the arguments alone."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.clip.class_lists import read_classes
from clipsieve.demo.__main__ import main
from clipsieve.demo.samples import CLEAN, MIXTURES, Kind, Mixture
from clipsieve.demo.shards import shard_ranges, write_benchmark_shards, write_shards
from clipsieve.errors import UsageError

ROWS, SHARDS, SEED = 1250, 3, 5
COLUMNS = (
    "url caption key status error_message width height original_width original_height exif "
    "sha256 jpg uid"
).split()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_shards(folder, ROWS, SHARDS, SEED)
    return folder


def test_bytes_do_not_depend_on_the_number_of_processes(folder, tmp_path):
    write_shards(tmp_path, ROWS, SHARDS, SEED, processes=2)
    assert contents(tmp_path) == contents(folder)


def test_writing_again_changes_nothing(folder):
    before = contents(folder)
    write_shards(folder, ROWS, SHARDS, SEED)
    assert contents(folder) == before


def test_rows_do_not_depend_on_the_number_of_shards(folder, tmp_path):
    write_shards(tmp_path, ROWS, 1, SEED)
    whole = pq.read_table(tmp_path / "00000.parquet").drop_columns(["key"])
    parts = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    joined = pa.concat_tables(parts, promote_options="permissive").drop_columns(["key"])
    assert joined.equals(whole)


def test_shards_have_the_columns_and_row_groups_of_img2dataset(folder):
    paths = sorted(folder.glob("*.parquet"))
    assert [path.name for path in paths] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    for path in paths:
        file = pq.ParquetFile(path)
        assert file.schema_arrow.names == COLUMNS
        sizes = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
        assert set(sizes[:-1]) == {100}
        assert sum(sizes) in {416, 417}
        assert file.metadata.row_group(0).column(0).compression == "SNAPPY"


def test_failed_rows_are_present_without_bytes(folder):
    rows = pq.read_table(folder / "00000.parquet").to_pylist()
    failed = [row for row in rows if row["status"] != "success"]
    assert failed
    for row in failed:
        assert row["status"] == "failed_to_download"
        assert row["error_message"]
        assert {row[name] for name in ("jpg", "sha256", "width", "height", "exif")} == {None}
        assert row["url"]
    for row in rows:
        if row["status"] == "success":
            assert row["error_message"] is None
            assert row["sha256"] == hashlib.sha256(row["jpg"]).hexdigest()


def test_error_message_has_type_null_where_nothing_failed(folder, tmp_path):
    assert pq.read_schema(folder / "00000.parquet").field("error_message").type == pa.string()
    write_shards(tmp_path, 150, 1, mixture=CLEAN)
    assert pq.read_schema(tmp_path / "00000.parquet").field("error_message").type == pa.null()


def test_the_last_shard_of_the_default_data_set_has_no_failure(tmp_path):
    write_shards(tmp_path)
    types = [
        pq.read_schema(path).field("error_message").type for path in tmp_path.glob("*.parquet")
    ]
    assert sorted(map(str, types)) == ["null", "string", "string", "string"]
    assert pq.read_schema(tmp_path / "00003.parquet").field("error_message").type == pa.null()


def test_statistics_agree_with_the_rows(folder):
    for path in folder.glob("*.parquet"):
        stats = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())
        statuses = pq.read_table(path).column("status").to_pylist()
        assert stats["count"] == len(statuses) == sum(stats["status_dict"].values())
        assert stats["successes"] == statuses.count("success") == stats["status_dict"]["success"]
        assert stats["failed_to_download"] == statuses.count("failed_to_download")
        assert stats["failed_to_resize"] == 0
        assert stats["end_time"] == pytest.approx(stats["start_time"] + stats["duration"])


def test_truth_is_row_aligned_and_outside_the_glob(folder):
    kinds = set()
    for path in folder.glob("*.parquet"):
        truth = pq.read_table(folder / "_truth" / path.name)
        assert truth.schema.names == ["uid", "kind", "class", "colour", "duplicate_of"]
        assert truth.column("uid").equals(pq.read_table(path).column("uid"))
        kinds |= set(truth.column("kind").to_pylist())
    assert kinds == {str(kind) for kind in Kind}


def test_a_folder_with_other_shards_is_refused(tmp_path):
    write_shards(tmp_path, 20, 4, mixture=CLEAN)
    with pytest.raises(UsageError, match=r"00002\.parquet in .* is not part of the data set"):
        write_shards(tmp_path, 20, 2, mixture=CLEAN)


def test_shard_sizes_differ_by_at_most_one():
    sizes = [len(indices) for indices in shard_ranges(10, 4)]
    assert sizes == [2, 3, 2, 3]


@pytest.mark.parametrize(
    ("rows", "shards", "message"),
    [
        (5, 0, "shards must be an int of at least 1, got 0"),
        (3, 4, r"rows must be at least the number of shards \(4\), got 3"),
        (20_001, 2, "use at least 3 shards"),
    ],
)
def test_impossible_splits_are_refused(rows, shards, message):
    with pytest.raises(ValueError, match=message):
        shard_ranges(rows, shards)


def test_processes_below_one_are_refused(tmp_path):
    with pytest.raises(ValueError, match="processes must be an int of at least 1, got 0"):
        write_shards(tmp_path, 4, 2, mixture=CLEAN, processes=0)


def test_command_writes_what_the_function_writes(tmp_path, capsys):
    assert main([str(tmp_path / "a"), "--rows", "60", "--shards", "2", "--seed", "4"]) == 0
    assert "60 rows in 2 shards" in capsys.readouterr().out
    write_shards(tmp_path / "b", 60, 2, seed=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_command_writes_dense_data_with_its_classes(tmp_path, capsys):
    words = ["--rows", "60", "--shards", "2", "--mixture", "dense"]
    assert main([str(tmp_path / "a"), *words]) == 0
    write_shards(tmp_path / "b", 60, 2, mixture=MIXTURES["dense"])
    assert (tmp_path / "a" / "classes.json").is_file()
    classes = read_classes(str(tmp_path / "a" / "classes.json"))
    assert isinstance(classes, dict)
    assert len(classes) == 24
    truth = pq.read_table(tmp_path / "a" / "_truth").to_pylist()
    assert {f"{row['colour']} {row['class']}" for row in truth} <= set(classes)
    assert contents(tmp_path / "b").items() <= contents(tmp_path / "a").items()
    assert main([str(tmp_path / "a"), *words]) == 0  # again, beside the file


def test_command_reports_misuse_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path), "--rows", "1", "--shards", "2"]) == 2
    assert capsys.readouterr().err.startswith("error: rows must be at least")


def test_benchmark_shards_are_like_web_data(tmp_path):
    paths = write_benchmark_shards(tmp_path / "a", rows=120, shards=2, seed=1)
    write_benchmark_shards(tmp_path / "b", rows=120, shards=2, seed=1, processes=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not (tmp_path / "a" / "_truth").exists()
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert all(256 <= row[side] <= 640 for row in rows for side in ("width", "height"))
    sizes = sorted(len(row["jpg"]) for row in rows)
    assert 20_000 < sizes[len(sizes) // 2] < 60_000
    lengths = sorted(len(row["caption"].split()) for row in rows)
    assert 7 <= lengths[len(lengths) // 2] <= 14
    assert lengths[-1] > 25


def test_a_mixture_of_one_kind(tmp_path):
    write_shards(tmp_path, 30, 1, mixture=Mixture(((Kind.WEBP, 10),), size=10))
    truth = pq.read_table(tmp_path / "_truth" / "00000.parquet")
    assert set(truth.column("kind").to_pylist()) == {"webp"}
