"""dataset.json, and the history of runs."""

import json

import pytest

from clipsieve.errors import UsageError
from clipsieve.store import dataset as datasets
from clipsieve.store.dataset import Dataset
from clipsieve.store.layout import Layout, slug
from clipsieve.store.runs import (
    DONE,
    FAILED,
    ShardRecord,
    append_record,
    new_run_id,
    read_records,
    write_manifest,
)

FULL = Dataset(
    inputs=({"patterns": ["/in/*.parquet"], "options": {"uid_col": None}},),
    model={"model": "tiny", "dim": 8},
    embeddings={"model": "tiny", "rev": "0a"},
    families={"clip": "0b"},
    wide={"build": "0c", "rows": 7},
)


@pytest.mark.parametrize("dataset", [Dataset(), FULL])
def test_saved_dataset_is_loaded_again(tmp_path, dataset):
    layout = Layout.at(tmp_path)
    datasets.save(layout, dataset)
    assert datasets.load(layout) == datasets.require(layout) == dataset


def test_an_input_is_listed_once(tmp_path):
    entry = {"patterns": ["/b"], "options": {}}
    assert FULL.with_input(entry).with_input(entry).inputs == (*FULL.inputs, entry)
    assert FULL.with_input(FULL.inputs[0]) is FULL


def test_folder_without_dataset_is_empty_and_cannot_be_required(tmp_path):
    layout = Layout.at(tmp_path / "none")
    assert datasets.load(layout) is None
    with pytest.raises(UsageError, match=r"none holds no clipsieve dataset .*give the OUT folder"):
        datasets.require(layout)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"layout_version": "1"}',
        '{"layout_version": "1", "inputs": [], "surplus": 1}',
        '{"layout_version": "one", "inputs": []}',
        '{"layout_version": 1, "inputs": []}',
    ],
)
def test_damaged_dataset_is_refused_with_its_path(tmp_path, content):
    layout = Layout.at(tmp_path)
    layout.dataset.write_text(content)
    with pytest.raises(UsageError, match=r"dataset\.json is not a clipsieve dataset file"):
        datasets.load(layout)


@pytest.mark.parametrize("version", ["2", "2.0", "10.1"])
def test_newer_major_version_is_refused(tmp_path, version):
    layout = Layout.at(tmp_path)
    datasets.save(layout, FULL)
    content = json.loads(layout.dataset.read_text())
    layout.dataset.write_text(json.dumps({**content, "layout_version": version}))
    with pytest.raises(UsageError, match=f"version {version}, .* up to 1; upgrade clipsieve"):
        datasets.load(layout)


def test_newer_major_version_is_told_even_if_its_fields_are_unknown(tmp_path):
    layout = Layout.at(tmp_path)
    layout.dataset.write_text('{"layout_version": "2", "new": {}}')
    with pytest.raises(UsageError, match="upgrade clipsieve"):
        datasets.load(layout)


def test_newer_minor_version_is_read(tmp_path):
    layout = Layout.at(tmp_path)
    datasets.save(layout, FULL)
    content = json.loads(layout.dataset.read_text())
    layout.dataset.write_text(json.dumps({**content, "layout_version": "1.3"}))
    assert datasets.require(layout).families == FULL.families


def test_a_url_is_no_output_folder():
    with pytest.raises(UsageError, match=r"s3://b/o is a URL; .*give a path"):
        Layout.at("s3://b/o")


def test_slug_is_a_safe_folder_name():
    assert slug("../../etc/passwd") == "etc_passwd"
    assert slug("///") == "_"


def test_records_of_a_run_are_read_back(tmp_path):
    layout = Layout.at(tmp_path)
    done = ShardRecord("r1", "a", "/in/a", DONE, 3, {"ok": 3}, None, 0.5, 1.0)
    failed = ShardRecord("r1", "b", "/in/b", FAILED, error="cannot read\nit", ended_at=2.0)
    other = ShardRecord("r2", "a", "/in/a", DONE, ended_at=3.0)
    for record in (done, other, failed):
        append_record(layout, record)
    assert list(read_records(layout, "r1")) == [done, failed]
    assert list(read_records(layout)) == [done, failed, other]
    assert list(read_records(layout, "r3")) == []


def test_no_history_has_no_records(tmp_path):
    assert list(read_records(Layout.at(tmp_path))) == []


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_line_cut_by_a_kill_is_left_out(tmp_path, cut):
    layout = Layout.at(tmp_path)
    record = ShardRecord("r1", "a", "/in/a", DONE, 3, {"ok": 3})
    append_record(layout, record)
    append_record(layout, record)
    (path,) = layout.runs.glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_records(layout)) == [record]


def test_a_line_separator_in_a_message_does_not_cut_a_record(tmp_path):
    layout = Layout.at(tmp_path)
    record = ShardRecord("r1", "a\u2028b", "/in/a\x85\x0c", FAILED, error="x\u2029y")
    append_record(layout, record)
    assert list(read_records(layout)) == [record]


def test_one_run_is_not_taken_for_another_whose_name_it_begins(tmp_path):
    layout = Layout.at(tmp_path)
    append_record(layout, ShardRecord("run.1", "a", "/in/a", DONE))
    append_record(layout, ShardRecord("run", "b", "/in/b", DONE))
    assert [record.shard for record in read_records(layout, "run")] == ["b"]


def test_run_ids_are_different_and_sort_by_time():
    ids = [new_run_id() for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(len(run_id) == 23 and run_id[8] == "T" for run_id in ids)


def test_manifest_is_beside_the_records(tmp_path):
    layout = Layout.at(tmp_path)
    path = write_manifest(layout, "r1", {"status": "ok"})
    assert path == tmp_path / "_runs" / "r1.json"
    assert json.loads(path.read_text()) == {"run_id": "r1", "status": "ok"}
