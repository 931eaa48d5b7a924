import errno
import os
import pickle
import re
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import UsageError
from clipsieve.formats.base import (
    InputFormat,
    ReadOptions,
    SourceConfig,
    SourceFingerprint,
    WorkItem,
)
from clipsieve.formats.inputs import (
    NotAFileError,
    expand_braces,
    find_inputs,
    is_present,
    open_binary,
    source_exists,
)
from clipsieve.formats.names import safe_name, shard_name
from clipsieve.formats.registry import count_rows, fingerprint, plan_input, read_rows
from tests.formats.files import (
    all_rows,
    img2dataset_table,
    sample,
    tar_bytes,
    write_parquet,
    write_tar,
)

SMALL = {"jpg": [b"x"], "caption": ["c"]}


@pytest.fixture
def tree(tmp_path):
    for name in ("0", "1", "a/0", "a/b/0"):
        write_parquet(tmp_path / f"{name}.parquet", pa.table(SMALL))
    (tmp_path / "notes_stats.json").write_text("{}")
    (tmp_path / ".0.parquet").write_text("hidden")
    return tmp_path


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/x/0.tar", tar_bytes(sample("a", jpg=b"1", txt=b"t")))
    system.pipe("/bucket/x/1.tar", tar_bytes(sample("b", jpg=b"2", txt=b"t")))
    with system.open("/bucket/p/0.parquet", "wb") as file:
        pq.write_table(img2dataset_table(rows=30), file, row_group_size=10)
    system.pipe({"/bucket/f/a.jpg": b"A", "/bucket/f/a.txt": b"cap", "/bucket/f/s/b.png": b"B"})
    yield system
    system.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{1..3}", ["1", "2", "3"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{000..004..2}", ["000", "002", "004"]),
        ("{9..10}", ["9", "10"]),
        ("{a,b{1,2}}{x,}", ["ax", "a", "b1x", "b1", "b2x", "b2"]),
        ("{c..a}", ["c", "b", "a"]),
        ("{x}{1..2}", ["{x}1", "{x}2"]),
        ("{a,b", ["{a,b"]),
        ("a}{0..1}", ["a}{0..1}"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{08..10}.tar", ["08.tar", "09.tar", "10.tar"]),
        (r"a\\{1,2}", [r"a\\1", r"a\\2"]),
        ("plain", ["plain"]),
    ],
)
def test_braces(pattern, names):
    assert expand_braces(pattern) == names


def test_braces_that_never_end_are_refused():
    with pytest.raises(UsageError, match="stands for more than 1,000,000 names"):
        expand_braces("{0..9999999999}")
    with pytest.raises(UsageError, match="stands for more than 1,000,000 names"):
        expand_braces("{0..999}{0..1000}")
    with pytest.raises(UsageError, match=r"step 0 in the brace range \{1\.\.5\.\.0\} never ends"):
        expand_braces("{1..5..0}")


@pytest.mark.parametrize(
    ("patterns", "shards"),
    [
        ("*.parquet", ["0", "1"]),
        ("**/*.parquet", ["0", "1", "a__0", "a__b__0"]),
        ("", ["0", "1", "a__0", "a__b__0"]),
        ("?.parquet", ["0", "1"]),
        ("[1-9].parquet", ["1"]),
        ("{0..1}.parquet", ["0", "1"]),
        ("{0,a/0}.parquet", ["0", "a__0"]),
        (["a/*.parquet", "a/b/*.parquet"], ["0", "b__0"]),
        (["1.parquet", "0.parquet", "*.parquet"], ["0", "1"]),
        ("a/b", ["0"]),
        ("a/b/0.parquet", ["0"]),
    ],
)
def test_patterns_and_shard_names(tree, patterns, shards):
    patterns = [patterns] if isinstance(patterns, str) else patterns
    plan = plan_input([str(tree / pattern) for pattern in patterns])
    assert [item.shard for item in plan.items] == shards


def test_home_folder_and_file_urls(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    for pattern in ("~/*.parquet", f"file://{tree}/*.parquet"):
        plan = plan_input(pattern)
        assert [item.uri for item in plan.items] == [f"{tree}/0.parquet", f"{tree}/1.parquet"]


def test_relative_patterns_give_absolute_uris(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert plan_input("*.parquet").items == plan_input(str(tree / "*.parquet")).items
    assert [item.shard for item in plan_input("a/*.parquet").items] == ["0"]


def test_names_with_brackets_that_exist_are_taken_as_they_are(tmp_path):
    write_parquet(tmp_path / "x[1]{a,b}.parquet", pa.table(SMALL))
    plan = plan_input(str(tmp_path / "x[1]{a,b}.parquet"))
    assert [item.shard for item in plan.items] == ["x%5B1%5D%7Ba%2Cb%7D"]


def test_names_are_safe():
    assert shard_name("a b/ü.snappy.parquet") == "a%20b__%C3%BC.snappy"
    assert shard_name(".x/..tar") == "%2Ex__."
    assert safe_name("") == "%"


def test_missing_inputs_are_named(tree):
    with pytest.raises(UsageError, match=r"no input matches '.*/no\.parquet'; check the path"):
        plan_input(str(tree / "no.parquet"))
    with pytest.raises(UsageError, match=r"no input matches '.*/\*\.tar'; check the path, and qu"):
        plan_input(str(tree / "*.tar"))
    with pytest.raises(
        UsageError,
        match=r"5 of the 7 files that .* names do not exist, first .*/2\.parquet, .*/3\.parquet, "
        r".*/4\.parquet, \.\.\.; correct the range, or use \*",
    ):
        plan_input(str(tree / "{0..6}.parquet"))
    with pytest.raises(UsageError, match="no input was named"):
        plan_input([])


def test_colliding_names_are_refused(tmp_path):
    write_parquet(tmp_path / "a" / "0.parquet", pa.table(SMALL))
    write_parquet(tmp_path / "a__0.parquet", pa.table(SMALL))
    with pytest.raises(
        UsageError,
        match=r"shard name 'a__0' would be given to both .*/a/0\.parquet and .*/a__0\.parquet; ",
    ):
        plan_input(str(tmp_path))


def test_shard_prefix(tree):
    plan = plan_input(str(tree / "*.parquet"), ReadOptions(shard_prefix="cc3m-"))
    assert [item.shard for item in plan.items] == ["cc3m-0", "cc3m-1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_format": "zip"}, "input_format must be one of auto, parquet, webdataset, folder"),
        ({"byte_budget": 0}, "byte_budget must be at least 1, got 0"),
        ({"rows_per_item": -1}, "rows_per_item must be at least 1, got -1"),
        ({"shard_prefix": "a/"}, "shard_prefix 'a/' is not safe in file names"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UsageError, match=message):
        ReadOptions(**options)


def test_content_counts_not_the_name(tmp_path):
    write_parquet(tmp_path / "table.tar", pa.table(SMALL))
    assert plan_input(str(tmp_path / "table.tar")).source.format == InputFormat.PARQUET
    write_tar(tmp_path / "a.parquet", sample("a", jpg=b"1", txt=b"t"))
    assert plan_input(str(tmp_path / "a.parquet")).source.format == InputFormat.WEBDATASET
    with pytest.raises(UsageError, match=r"inputs of different formats: .*; plan each format on"):
        plan_input(str(tmp_path / "*"))


def test_a_format_that_is_not_there_is_refused(tree):
    note = pa.table(SMALL).replace_schema_metadata({"huggingface": "{}"})
    write_parquet(tree / "hf" / "0.parquet", note)
    with pytest.raises(
        UsageError,
        match=r"hf/0\.parquet is a Parquet file of Hugging Face datasets, but input_format is "
        r"webdataset; leave input_format out, or make it parquet",
    ):
        plan_input(str(tree / "hf" / "*.parquet"), ReadOptions(input_format="webdataset"))
    with pytest.raises(UsageError, match=r"hf holds 1 Parquet file, but input_format is webdatas"):
        plan_input(str(tree / "hf"), ReadOptions(input_format="webdataset"))
    with pytest.raises(UsageError, match=r"is a Parquet file, but input_format is folder"):
        plan_input(str(tree / "0.parquet"), ReadOptions(input_format="folder"))


def test_what_is_no_shard_is_refused_or_counted(tmp_path, tree):
    (tree / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match=r"photo\.jpg is a JPEG picture; name the folder it is in"):
        plan_input(str(tree / "photo.jpg"))
    assert "2 other files ignored" in plan_input(str(tree / "*")).description
    with pytest.raises(
        UsageError, match=r"none of the 1 files found is a Parquet file or tar, suc"
    ):
        plan_input(str(tree / "*.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no Parquet files, tars or pictures; check the pa"):
        plan_input(str(tmp_path / "empty"))


@pytest.mark.parametrize("pattern", ["*.parquet", ""])
def test_a_dangling_link_is_a_problem_of_one_shard(tree, pattern):
    (tree / "9.parquet").symlink_to(tree / "gone")
    items = plan_input(str(tree / pattern)).items
    problems = {item.shard: item.problem for item in items if item.problem}
    assert list(problems) == ["9"]
    assert "it is not readable: " in problems["9"] and "No such file" in problems["9"]


def test_memory_tars_parquet_and_folders(memory):
    plan = plan_input("memory://bucket/x/{0..1}.tar")
    assert [item.uri for item in plan.items] == [f"memory:///bucket/x/{n}.tar" for n in (0, 1)]
    assert [item.shard for item in plan.items] == ["0", "1"]
    assert [row["image"] for row in all_rows(plan)] == [b"1", b"2"]
    plan = plan_input("memory://bucket/p", ReadOptions(rows_per_item=20))
    assert [item.shard for item in plan.items] == ["0.r000000000", "0.r000000020"]
    assert [row["caption"] for row in all_rows(plan)] == [f"caption {n}" for n in range(30)]
    assert [count_rows(item) for item in plan.items] == [20, 10]
    plan = plan_input("memory://bucket/f")
    assert [(row["image"], row["caption"]) for row in all_rows(plan)] == [
        *((b"A", "cap"), (b"B", None))
    ]
    for pattern in ("memory://bucket/x/*.tar", "memory://bucket/p/*", "memory://bucket/f"):
        for item in plan_input(pattern).items:
            assert fingerprint(item) == item.fingerprint


def test_memory_changes_are_seen(memory):
    (item, _) = plan_input("memory://bucket/x/*.tar").items
    memory.pipe("/bucket/x/0.tar", tar_bytes(sample("a", jpg=b"9", txt=b"t")))
    assert fingerprint(item) != item.fingerprint


def test_file_systems_do_not_mix(tree, memory):
    with pytest.raises(UsageError, match=r"on different file systems \(file, memory\)"):
        find_inputs([str(tree), "memory://bucket/x"])
    with pytest.raises(
        UsageError, match=r"cannot open nope://x: .*; install the fsspec package for"
    ):
        plan_input("nope://x")


@pytest.mark.parametrize("kind", ["parquet", "tar", "folder"])
def test_plans_are_deterministic_and_travel(tree, memory, kind):
    where = {
        "parquet": str(tree / "**/*.parquet"),
        "tar": "memory://bucket/x",
        "folder": "memory://bucket/f",
    }[kind]
    plan = plan_input(where)
    again = plan_input(where)
    assert (plan.items, plan.source, plan.description) == (
        *(again.items, again.source, again.description),
    )
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert SourceConfig.from_json(plan.source.to_json()) == plan.source
    for item in plan.items:
        assert WorkItem.from_json(item.to_json()) == item
        assert pickle.loads(pickle.dumps(item)) == item
        assert count_rows(item) == sum(len(batch) for batch in read_rows(item, plan.source))


def test_items_with_ranges_and_problems_travel():
    print_ = SourceFingerprint(-1, "", None)
    item = WorkItem("é", "s3://b/é", InputFormat.PARQUET, 5, (1, 2), print_, None, "why")
    assert WorkItem.from_json(item.to_json()) == item


def test_what_is_no_file_is_refused_and_not_read(tmp_path, tree):
    os.mkfifo(tmp_path / "pipe.parquet")
    for pattern in (tmp_path / "pipe.parquet", tmp_path / "*.parquet"):
        with pytest.raises(UsageError, match=r"pipe\.parquet is a named pipe, not a file; save"):
            find_inputs(str(pattern))
    with pytest.raises(UsageError, match="input /dev/zero is a device, not a file"):
        find_inputs("/dev/zero")
    with pytest.raises(NotAFileError, match="it is a named pipe, not a file"):
        open_binary(str(tmp_path / "pipe.parquet"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO, errno.ENOTCONN])
def test_a_source_that_cannot_be_reached_is_not_gone(tmp_path, monkeypatch, number):
    path = str(tmp_path / "a.parquet")

    def refuse(*_args, **_options):
        raise OSError(number, os.strerror(number), path)

    assert not source_exists(path)
    assert not source_exists(f"{path}/below")
    (tmp_path / "file").write_text("")
    assert not source_exists(str(tmp_path / "file" / "below"))
    monkeypatch.setattr(os, "stat", refuse)
    assert source_exists(path)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        is_present(path)


def test_only_a_store_that_says_so_has_no_such_source(memory, monkeypatch):
    assert source_exists("memory://bucket/x/0.tar")
    assert not source_exists("memory://bucket/x/9.tar")
    assert source_exists("nope://bucket/x/0.tar")

    def refuse(*_args, **_options):
        raise PermissionError("403")

    monkeypatch.setattr(type(memory), "info", refuse)
    assert source_exists("memory://bucket/x/9.tar")


@pytest.mark.parametrize(("status", "exists"), [(404, False), (410, False), (403, True), (0, True)])
def test_a_web_server_that_does_not_answer_has_not_lost_its_files(monkeypatch, status, exists):
    class Web(fsspec.AbstractFileSystem):
        """Fails as fsspec's HTTP does, which needs aiohttp."""

        def info(self, path, **_options):
            cause = OSError("no answer")
            if status:
                cause.status = status  # type: ignore[attr-defined]
            raise FileNotFoundError(path) from cause

    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "http", Web)
    assert source_exists("http://host/a.tar") == exists
