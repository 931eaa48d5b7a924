import datetime
import tempfile
from random import Random

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import ShardError, StorageError, UsageError
from clipsieve.formats.base import ReadOptions, WorkItem
from clipsieve.formats.registry import count_rows, fingerprint, plan_input, read_rows
from clipsieve.formats.samples import Sample
from clipsieve.formats.sidecar import join_sidecar
from clipsieve.schemas.states import RowFailure, RowState
from tests.formats.files import all_rows, sample, tar_bytes, write_parquet, write_tar

MISSING = "the sidecar has it as a success, but the tar has no sample of this key"


def members(*keys, size=5):
    """Samples as img2dataset writes them, each with a picture of its own."""
    found = []
    for at, key in enumerate(keys):
        fields = {"caption": f"of {key}", "key": key, "status": "success", "error_message": None}
        text = f"of {key}".encode()
        found += sample(key, jpg=f"{at} {key}".ljust(size).encode(), txt=text, json=fields)
    return found


def table(*rows, **columns):
    """A sidecar of (key, error) pairs; an error of None is a success."""
    return pa.table(
        {
            "caption": [f"of {key}" for key, _ in rows],
            "url": [f"http://x/{key}" for key, _ in rows],
            "key": [key for key, _ in rows],
            "status": ["failed_to_download" if error else "success" for _, error in rows],
            "error_message": pa.array([error for _, error in rows], pa.string()),
            **columns,
        }
    )


def plan_of(folder, tar, sidecar, **options):
    write_tar(folder / "00000.tar", tar)
    write_parquet(folder / "00000.parquet", sidecar)
    return plan_input(str(folder), ReadOptions(**options))


def keys_and_images(rows):
    return [(row["key"], row["image"]) for row in rows]


def test_failed_rows_stand_where_the_sidecar_has_them(tmp_path):
    rows = [("f1", "404"), ("a", None), ("f2", "timed out"), ("b", None), ("f3", "404")]
    plan = plan_of(tmp_path, members("a", "b"), table(*rows))
    read = all_rows(plan)
    assert keys_and_images(read) == [
        *(("f1", None), ("a", b"0 a  "), ("f2", None), ("b", b"1 b  "), ("f3", None))
    ]
    assert [row["caption"] for row in read] == [f"of {key}" for key, _ in rows]
    assert [row["url"] for row in read] == [f"http://x/{key}" for key, _ in rows]
    assert [row["source_status"] for row in read][:2] == ["failed_to_download", "success"]
    assert [row["failure"] for row in read] == [
        RowFailure(RowState.FETCH_FAILED, error) if error else None for _, error in rows
    ]
    assert [row["extra"] for row in read] == [None] * 5
    assert [count_rows(item) for item in plan.items] == [5]
    assert "; 1 Parquet file beside the tars taken as sidecars" in plan.description


@pytest.mark.parametrize("byte_budget", [1, 64 << 20])
def test_the_order_is_the_sidecar_s_whatever_the_tar_s(tmp_path, byte_budget):
    keys = [f"{number:03d}" for number in range(40)]
    shuffled = keys[20:] + keys[:20][::-1]
    rows = [(key, None) for key in keys]
    plan = plan_of(tmp_path, members(*shuffled, size=1000), table(*rows), byte_budget=byte_budget)
    read = all_rows(plan)
    assert keys_and_images(read) == [
        (key, f"{shuffled.index(key)} {key}".ljust(1000).encode()) for key in keys
    ]
    assert [row["caption"] for row in read] == [f"of {key}" for key in keys]
    assert not any(row["failure"] for row in read)


def test_what_is_in_one_of_the_two_alone_is_a_row(tmp_path):
    rows = [("a", None), ("gone", None), ("f", "404"), ("b", None)]
    plan = plan_of(tmp_path, members("extra1", "a", "b", "f", "extra2"), table(*rows))
    read = all_rows(plan)
    assert [row["key"] for row in read] == ["a", "gone", "f", "b", "extra1", "f", "extra2"]
    assert [row["image"] is None for row in read] == [False, True, True, *[False] * 4]
    assert {at: row["failure"] for at, row in enumerate(read) if row["failure"]} == {
        1: RowFailure(RowState.MISSING_IMAGE, MISSING),
        2: RowFailure(RowState.FETCH_FAILED, "404"),
    }
    assert [row["url"] for row in read][4:] == [None, None, None]
    assert [row["caption"] for row in read][4:] == ["of extra1", "of f", "of extra2"]
    assert count_rows(plan.items[0]) == 7


def test_keys_that_repeat_are_joined_in_their_order(tmp_path):
    rows = [("k", None), ("a", None), ("k", None), ("k", None)]
    plan = plan_of(tmp_path, [*members("k", "k"), *members("a", "b", "b")], table(*rows))
    read = all_rows(plan)
    assert keys_and_images(read) == [
        *(("k", b"0 k  "), ("a", b"0 a  "), ("k", b"1 k  "), ("k", None)),
        *(("b", b"1 b  "), ("b", b"2 b  ")),
    ]
    assert read[3]["failure"] == RowFailure(RowState.MISSING_IMAGE, MISSING)
    assert count_rows(plan.items[0]) == 6


def test_tars_without_a_sample_have_the_rows_of_their_sidecars(tmp_path):
    plan = plan_of(tmp_path, [], table(("a", "404"), ("b", None)))
    read = all_rows(plan)
    assert [row["caption"] for row in read] == ["of a", "of b"]
    assert [row["failure"].state for row in read] == [
        RowState.FETCH_FAILED,
        RowState.MISSING_IMAGE,
    ]
    assert "image members not seen yet" in plan.description


def test_columns_of_the_sidecar_are_carried_in_types_of_json(tmp_path):
    columns = {
        "uid": ["u1", "u2"],
        "width": pa.array([640.0, float("nan")]),
        "n": pa.array([7, None], pa.int16()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "tags": [["a"], None],
        "day": [datetime.date(2026, 1, 2), None],
        "raw": pa.array([b"\xff!", None], pa.large_binary()),
    }
    plan = plan_of(tmp_path, members("a"), table(("a", None), ("b", "404"), **columns))
    first, second = all_rows(plan)
    assert (first["uid"], first["width"], first["n"], first["kind"]) == ("u1", 640, 7, "x")
    assert (first["tags"], first["day"], first["raw"]) == ('["a"]', "2026-01-02", "\\xff!")
    assert (second["uid"], second["width"], second["n"], second["kind"]) == ("u2", None, None, "y")
    assert (second["tags"], second["day"], second["raw"]) == (None, None, None)
    types = {field.name: str(field.type) for field in plan.source.carried}
    assert types["width"] == types["n"] == "int64"


def test_tars_with_and_without_sidecars_are_read_together(tmp_path):
    write_tar(tmp_path / "1.tar.gz", members("c"), mode="w:gz")
    plan = plan_of(tmp_path, members("a"), table(("a", None), ("b", "404")))
    assert [row["key"] for row in all_rows(plan)] == ["a", "b", "c"]
    assert [item.sidecar for item in plan.items] == [str(tmp_path / "00000.parquet"), None]
    assert [WorkItem.from_json(item.to_json()) for item in plan.items] == list(plan.items)


def test_a_tar_in_folders_is_joined_by_file_names(tmp_path):
    plan = plan_of(tmp_path, members("x/a"), table(("a", None)))
    (row,) = all_rows(plan)
    assert (row["image"], row["url"]) == (b"0 x/a", "http://x/a")


@pytest.mark.parametrize("pattern", ["", "/*", "/*.tar", "/{00000,00001}.*", "/00000.tar"])
def test_sidecars_are_no_shards_however_they_are_named(tmp_path, pattern):
    for name in ("00000", "00001"):
        write_tar(tmp_path / f"{name}.tar", members("a"))
        write_parquet(tmp_path / f"{name}.parquet", table(("a", None), ("b", "404")))
    patterns = [f"{tmp_path}{pattern}"]
    if "{" in pattern:
        patterns = [
            f"{tmp_path}/{n}.{end}" for n in ("00000", "00001") for end in ("tar", "parquet")
        ]
    plan = plan_input(patterns)
    assert {item.uri.rpartition(".")[2] for item in plan.items} == {"tar"}
    assert [count_rows(item) for item in plan.items] == [2] * len(plan.items)


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        ({"url": ["u"]}, "not read: they have pictures, or no columns key and status"),
        ({"key": ["a"], "status": ["success"], "jpg": [b"x"]}, "not read: they have pictures"),
    ],
)
def test_other_parquet_files_beside_tars_are_not_read(tmp_path, columns, note):
    write_parquet(tmp_path / "notes.parquet", pa.table({"url": ["u"]}))
    plan = plan_of(tmp_path, members("a"), pa.table(columns))
    assert [row["key"] for row in all_rows(plan)] == ["a"]
    assert plan.items[0].sidecar is None
    assert f"; 1 Parquet file beside the tars {note}" in plan.description
    assert "; 1 Parquet file beside the tars not read;" in f"{plan.description};"


def test_a_sidecar_that_changes_comes_or_goes_makes_the_shard_another(tmp_path):
    write_tar(tmp_path / "00000.tar", members("a"))
    alone = plan_input(str(tmp_path)).items[0]
    path = write_parquet(tmp_path / "00000.parquet", table(("a", None)))
    plan = plan_input(str(tmp_path))
    (joined,) = plan.items
    assert fingerprint(alone) == alone.fingerprint != joined.fingerprint
    assert alone.fingerprint.version.isdigit() and alone.sidecar is None
    assert fingerprint(joined) == joined.fingerprint
    write_parquet(path, table(("a", None), ("b", "404")))
    assert fingerprint(joined) != joined.fingerprint
    with pytest.raises(ShardError, match="it has changed since it was planned"):
        list(read_rows(joined, plan.source))
    path.unlink()
    with pytest.raises(ShardError, match="does not exist any more"):
        fingerprint(joined)
    assert plan_input(str(tmp_path)).items[0] == alone


def test_a_damaged_sidecar_is_a_problem_of_its_shard(tmp_path):
    write_tar(tmp_path / "1.tar", members("c"))
    path = tmp_path / "00000.parquet"
    for content in (b"", b"PAR1 no more", b"PAR1" + bytes(100) + b"PAR1"):
        write_tar(tmp_path / "00000.tar", members("a"))
        path.write_bytes(content)
        damaged, sound = plan_input(str(tmp_path)).items
        with pytest.raises(ShardError, match=rf"00000\.tar: its sidecar {path} cannot be read: "):
            count_rows(damaged)
        assert count_rows(sound) == 1


def test_where_all_sidecars_are_damaged_the_first_is_named(tmp_path):
    write_tar(tmp_path / "00000.tar", members("a"))
    (tmp_path / "00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        UsageError, match=r"none of the 1 tars .*0\.tar: its sidecar .*0\.parquet ca"
    ):
        plan_input(str(tmp_path))


def test_a_sidecar_damaged_behind_its_footer_is_named(tmp_path):
    rows = [(f"{number:04d}", "404") for number in range(2000)]
    plan = plan_of(tmp_path, members("a"), table(*rows))
    path = tmp_path / "00000.parquet"
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    with pytest.raises(ShardError, match=rf"its sidecar {path}: .*; replace the file"):
        all_rows(plan_input(str(tmp_path)))
    del plan


def test_a_sidecar_of_another_tar_is_refused(tmp_path):
    plan = plan_of(tmp_path, members("a", "b"), table(("x", None), ("y", None), ("z", "404")))
    for read in (count_rows, lambda item: list(read_rows(item, plan.source))):
        with pytest.raises(ShardError, match="none of the 2 successful rows of its sidecar is in"):
            read(plan.items[0])


def test_stores_have_sidecars_too():
    system = fsspec.filesystem("memory")
    system.pipe("/sidecars/0.tar", tar_bytes(members("a", "b")))
    system.pipe("/sidecars/1.tar", tar_bytes(members("d")))
    with system.open("/sidecars/0.parquet", "wb") as file:
        pq.write_table(table(("b", None), ("c", "404"), ("a", None)), file)
    try:
        for pattern in ("memory://sidecars", "memory://sidecars/*.tar", "memory://sidecars/*"):
            plan = plan_input(pattern)
            assert [row["key"] for row in all_rows(plan)] == ["b", "c", "a", "d"]
            assert [count_rows(item) for item in plan.items] == [3, 1]
            assert all(fingerprint(item) == item.fingerprint for item in plan.items)
        with system.open("/sidecars/0.parquet", "wb") as file:
            pq.write_table(table(("b", None), ("a", None)), file)
        assert fingerprint(plan.items[0]) != plan.items[0].fingerprint
        with pytest.raises(ShardError, match="it has changed since it was planned"):
            list(read_rows(plan.items[0], plan.source))
    finally:
        system.rm("/sidecars", recursive=True)


def test_samples_that_wait_are_on_disk_beyond_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    samples = [Sample(f"{number}", image=b"x" * 100) for number in range(10)]
    rows = [{"key": f"{number}", "status": "success"} for number in reversed(range(10))]
    assert len(list(join_sidecar(rows, iter(samples), 1000))) == 10
    with pytest.raises(StorageError, match=r"cannot be kept in .*gone \(No such file or directory"):
        list(join_sidecar(rows, iter(samples), 500))


def test_a_sidecar_with_flipped_bytes_is_read_or_fails_its_shard(tmp_path):
    rows = [(f"{number:03d}", "404" if number % 3 else None) for number in range(60)]
    plan_of(tmp_path, members(*[key for key, error in rows if not error]), table(*rows))
    write_tar(tmp_path / "1.tar", members("sound"))
    path, random = tmp_path / "00000.parquet", Random(7)
    whole = path.read_bytes()
    failed = 0
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(random.choice([1, 4, 16])):
            content[random.randrange(len(content))] = random.randrange(256)
        path.write_bytes(content)
        plan = plan_input(str(tmp_path))
        damaged, sound = plan.items
        assert sum(map(len, read_rows(sound, plan.source))) == 1
        try:
            assert sum(map(len, read_rows(damaged, plan.source))) >= 20
        except ShardError as error:
            failed += 1
            assert "00000.tar" in str(error)
    assert 10 < failed < 60
