import gzip
import json
import os

import pyarrow as pa
import pytest

from clipsieve.errors import ShardError, UsageError
from clipsieve.formats.base import ReadOptions
from clipsieve.formats.registry import count_rows, fingerprint, plan_input, read_rows
from clipsieve.schemas.states import RowFailure, RowState
from tests.formats.files import (
    all_rows,
    img2dataset_table,
    sample,
    tar_bytes,
    write_parquet,
    write_tar,
)


def img2dataset_members(rows, first=0, **more):
    members = []
    for row in range(first, first + rows):
        fields = {
            "caption": f"caption {row}",
            "url": f"http://x/{row}",
            "key": f"{row:09d}",
            "status": "success",
            "error_message": None,
            "width": 256,
            "exif": "{}",
            "sha256": "ab",
            **more,
        }
        text = f"caption {row}".encode()
        members += sample(f"{row:09d}", jpg=b"image %d" % row, txt=text, json=fields)
    return members


def test_img2dataset_rows_come_back_exactly(tmp_path):
    write_tar(tmp_path / "00000.tar", img2dataset_members(5))
    write_tar(tmp_path / "00001.tar", img2dataset_members(3, first=5))
    plan = plan_input(str(tmp_path / "{00000..00001}.tar"))
    rows = all_rows(plan)
    assert [row["image"] for row in rows] == [b"image %d" % row for row in range(8)]
    assert [row["caption"] for row in rows] == [f"caption {row}" for row in range(8)]
    assert rows[7] | {"image": 0} == {
        "image": 0,
        "caption": "caption 7",
        "failure": None,
        "uid": None,
        "key": "000000007",
        "url": "http://x/7",
        "source_status": "success",
        "error_message": None,
        "width": 256,
        "exif": "{}",
        "sha256": "ab",
        "extra": None,
    }
    assert [count_rows(item) for item in plan.items] == [5, 3]
    assert all(fingerprint(item) == item.fingerprint for item in plan.items)
    assert plan.description == (
        "img2dataset webdataset, 2 shards, rows counted on reading, image members jpg, captions "
        "from txt, no uid; carried under other names: status as source_status"
    )


def test_tars_are_the_shards_where_parquet_lies_beside_them(tmp_path):
    write_tar(tmp_path / "00000.tar", img2dataset_members(2))
    write_parquet(tmp_path / "00000.parquet", img2dataset_table().drop_columns(["jpg"]))
    (tmp_path / "00000_stats.json").write_text("{}")
    plan = plan_input(str(tmp_path))
    assert [item.shard for item in plan.items] == ["00000"]
    assert "1 Parquet file beside the tars taken as sidecars" in plan.description


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars_are_read_whatever_they_are_called(tmp_path, mode):
    write_tar(tmp_path / "a.tar", img2dataset_members(3), mode=mode)
    plan = plan_input(str(tmp_path / "a.tar"))
    assert len(all_rows(plan)) == count_rows(plan.items[0]) == 3


def test_samples_lack_what_they_lack(tmp_path):
    members = [
        *sample("a", txt=b"no image", json={"url": "u"}),
        *sample("b", png=b"b", json={"caption": "from json"}),
        *sample("c", webp=b"c"),
        *sample("d", JPG=b"", txt=b"caf\xe9"),
        *sample("e", json={"status": "failed_to_download", "error_message": "404"}),
        *sample("f", jpg=b"f", json=b"{broken"),
        *sample("dir/g", jpg=b"g", txt=b"t", cls=b"3"),
    ]
    write_tar(tmp_path / "a.tar", members)
    plan = plan_input(str(tmp_path / "a.tar"))
    rows = all_rows(plan)
    assert [row["image"] for row in rows] == [None, b"b", b"c", b"", None, b"f", b"g"]
    assert [row["caption"] for row in rows] == [
        *("no image", "from json", None, "caf\ufffd", None, None, "t")
    ]
    assert {at: row["failure"] for at, row in enumerate(rows) if row["failure"]} == {
        0: RowFailure(RowState.MISSING_IMAGE, "sample a has no picture member, only .txt, .json"),
        3: RowFailure(RowState.INVALID_CAPTION, "caption is not UTF-8: byte 0xe9 at 3"),
        4: RowFailure(RowState.FETCH_FAILED, "404"),
    }
    assert [row["key"] for row in rows] == ["a", "b", "c", "d", "e", "f", "dir/g"]
    assert rows[5]["extra"] == json.dumps({"invalid_json": "{broken"})
    assert "members not read: cls" in plan.description
    assert count_rows(plan.items[0]) == 7


def test_json_too_deep_to_parse_is_kept_as_text_and_the_shard_is_read(tmp_path):
    deep = b'{"a": ' + b"[" * 100_000
    members = [*sample("a", jpg=b"a", txt=b"t", json=deep), *sample("b", jpg=b"b", txt=b"t")]
    write_tar(tmp_path / "a.tar", members)
    rows = all_rows(plan_input(str(tmp_path)))
    assert [row["image"] for row in rows] == [b"a", b"b"]
    assert json.loads(rows[0]["extra"]) == {"invalid_json": deep.decode()}


def test_keys_may_repeat_in_a_tar_and_across_tars(tmp_path):
    twice = [*sample("k", jpg=b"1", txt=b"one"), *sample("k", jpg=b"2", txt=b"two")]
    write_tar(tmp_path / "a.tar", [*twice, *sample("x", jpg=b"x"), *sample("k", jpg=b"3")])
    write_tar(tmp_path / "b.tar", sample("k", jpg=b"4", txt=b"four"))
    plan = plan_input(str(tmp_path))
    rows = all_rows(plan)
    assert [row["image"] for row in rows] == [b"1", b"2", b"x", b"3", b"4"]
    assert [row["caption"] for row in rows] == ["one", "two", None, None, "four"]
    assert [count_rows(item) for item in plan.items] == [4, 1]


def test_fields_unknown_or_of_another_type_later_are_kept_in_extra(tmp_path):
    members = []
    for row in range(100):
        fields = {"n": row, "s": "x", "list": [row], "f": 0.5, "b": True, "mixed": row or "zero"}
        members += sample(f"{row:03d}", jpg=b"i", txt=b"t", json=fields)
    late = {"n": "many", "s": 5, "list": None, "new": {"deep": [1]}, "f": 2, "b": None}
    members += sample("late", jpg=b"i", txt=b"t", json={**late, "caption": "differs", "extra": 1})
    members += sample("big", jpg=b"i", txt=b"t", json={"n": 10**30, "s": "\ud800"})
    write_tar(tmp_path / "a.tar", members)
    plan = plan_input(str(tmp_path / "a.tar"))
    types = {field.name: str(field.type) for field in plan.source.carried}
    assert types == {
        **{"key": "string", "n": "int64", "s": "string", "list": "string", "f": "double"},
        **{"b": "bool", "mixed": "string", "extra": "string"},
    }
    rows = all_rows(plan)
    assert rows[0]["list"] == "[0]" and rows[0]["mixed"] == "zero" and rows[1]["mixed"] == "1"
    late_row = rows[100]
    assert (late_row["n"], late_row["s"], late_row["f"]) == (None, "5", 2.0)
    assert json.loads(late_row["extra"]) == {
        "n": "many",
        "new": {"deep": [1]},
        "caption": "differs",
        "extra": 1,
    }
    assert json.loads(rows[101]["extra"]) == {"n": 10**30} and rows[101]["s"] == "?"


def test_known_fields_have_their_types_even_if_null(tmp_path):
    fields = {"url": None, "width": None, "similarity": 1, "error_message": None, "other": None}
    write_tar(tmp_path / "a.tar", sample("a", jpg=b"i", txt=b"t", json=fields))
    plan = plan_input(str(tmp_path / "a.tar"))
    types = {field.name: str(field.type) for field in plan.source.carried}
    assert types == {
        **{"key": "string", "url": "string", "width": "int64", "similarity": "double"},
        **{"error_message": "string", "other": "string", "extra": "string"},
    }


def test_uids_captions_and_references_come_from_named_fields(tmp_path):
    fields = {"uid": "u", "id": 7, "alt": "other", "refs": ["r", None, "s"], "text": "third"}
    write_tar(tmp_path / "a.tar", sample("a", jpg=b"i", txt=b"t", json=fields))
    plan = plan_input(str(tmp_path / "a.tar"))
    (row,) = all_rows(plan)
    assert (row["uid"], row["caption"]) == ("u", "t")
    assert json.loads(row["extra"]) == {"text": "third"}
    options = ReadOptions(uid_col="id", caption_col="alt", references_col="refs")
    plan = plan_input(str(tmp_path / "a.tar"), options)
    (row,) = all_rows(plan)
    assert plan.source.uid_type == pa.int64()
    assert (row["uid"], row["caption"], plan.source.references) == (7, "other", "refs")
    assert json.loads(row["refs"]) == ["r", None, "s"]
    assert (row["source_uid"], row["text"]) == ("u", "third")
    assert json.loads(row["extra"]) == {"txt": "t"}


def test_references_in_a_caption_field_are_carried_though_the_text_file_repeats_them(tmp_path):
    members = [
        *sample("a", jpg=b"i", txt=b"same", json={"caption": "same", "text": "same"}),
        *sample("b", jpg=b"i", json={"caption": "only"}),
    ]
    write_tar(tmp_path / "a.tar", members)
    plan = plan_input(str(tmp_path), ReadOptions(references_col="caption"))
    rows = all_rows(plan)
    assert [row["caption"] for row in rows] == ["same", "only"]
    assert [row["source_caption"] for row in rows] == ["same", "only"]
    assert [row["extra"] for row in rows] == [None, None]
    assert "source_caption" not in plan_input(str(tmp_path)).source.carried.names


def test_a_uid_that_does_not_fit_raises(tmp_path):
    members = [
        part
        for row in range(101)
        for part in sample(f"{row}", jpg=b"i", txt=b"t", json={"uid": row if row < 100 else "x"})
    ]
    write_tar(tmp_path / "a.tar", members)
    plan = plan_input(str(tmp_path / "a.tar"))
    with pytest.raises(ShardError, match=r"a uid in field 'uid' is not int64 as in the first sam"):
        list(read_rows(plan.items[0], plan.source))


def test_one_picture_of_several_can_be_chosen(tmp_path):
    members = [("a.left.jpg", b"left"), ("a.jpg", b"whole"), ("a.png", b"mask"), ("a.txt", b"t")]
    write_tar(tmp_path / "a.tar", members)
    for column, image in ((None, b"whole"), ("left.jpg", b"left"), ("png", b"mask")):
        (row,) = all_rows(plan_input(str(tmp_path), ReadOptions(image_col=column)))
        assert row["image"] == image
    with pytest.raises(UsageError, match=r"image_col 'gif' .* its members are left.jpg, jpg, png"):
        plan_input(str(tmp_path), ReadOptions(image_col="gif"))


def test_tars_without_captions_must_say_so(tmp_path):
    write_tar(tmp_path / "a.tar", sample("a", jpg=b"i"))
    with pytest.raises(UsageError, match=r"no captions in .*a\.tar: no \.txt members and no field"):
        plan_input(str(tmp_path))
    (row,) = all_rows(plan_input(str(tmp_path), ReadOptions(caption_col="none")))
    assert row["caption"] is None


def test_a_tar_cut_anywhere_raises(tmp_path):
    members = img2dataset_members(4)
    whole = tar_bytes(members)
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    plan = plan_input(str(path))
    cuts = {
        "at a member": 512 * 2,
        "in a header": 512 * 2 + 100,
        "in a member": 512 + 3,
        "before the end marker": end,
        "in the last sample": end - 1024,
    }
    for place, cut in cuts.items():
        path.write_bytes(whole[:cut])
        plan = plan_input(str(path)) if cut > 2000 else plan
        (item,) = plan.items
        with pytest.raises(ShardError, match=r"cannot read .*a\.tar: .*; replace the file") as info:
            count_rows(item)
        assert "cut off" in str(info.value) or "unexpected end" in str(info.value), place
        if cut > 2000:
            with pytest.raises(ShardError):
                list(read_rows(item, plan.source))


def test_a_cut_or_damaged_gzip_raises(tmp_path):
    whole = gzip.compress(tar_bytes(img2dataset_members(40)), mtime=0)
    path = tmp_path / "a.tar.gz"
    write_tar(tmp_path / "0.tar", img2dataset_members(1))
    for damaged in (whole[:-4], whole[: len(whole) // 2], whole[:-8] + b"\0\0\0\0" + whole[-4:]):
        path.write_bytes(damaged)
        plan = plan_input(str(tmp_path))
        with pytest.raises(ShardError, match=r"cannot read .*a\.tar\.gz: "):
            list(read_rows(plan.items[1], plan.source))


def test_damaged_headers_and_joined_tars_raise(tmp_path):
    whole = bytearray(tar_bytes(img2dataset_members(3)))
    path = tmp_path / "a.tar"
    path.write_bytes(whole + whole)
    plan = plan_input(str(path))
    with pytest.raises(ShardError, match="there is data after the tar's end marker: joined tars"):
        list(read_rows(plan.items[0], plan.source))
    whole[1024 * 6 + 10] ^= 0xFF
    path.write_bytes(whole)
    plan = plan_input(str(path))
    with pytest.raises(ShardError, match="damaged member header: bad checksum"):
        list(read_rows(plan.items[0], plan.source))


def test_an_empty_tar_has_no_rows_and_an_empty_file_is_no_tar(tmp_path):
    write_tar(tmp_path / "0.tar", img2dataset_members(1))
    write_tar(tmp_path / "1.tar", [])
    (tmp_path / "2.tar").write_bytes(b"")
    plan = plan_input(str(tmp_path))
    assert list(read_rows(plan.items[1], plan.source)) == []
    assert count_rows(plan.items[1]) == 0
    with pytest.raises(ShardError, match=r"2\.tar: it is empty \(0 bytes\)"):
        list(read_rows(plan.items[2], plan.source))


def test_nothing_readable_is_refused(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"none of the 1 file can be read, first .*0\.tar: it is e"
    ):
        plan_input(str(tmp_path))
    write_tar(tmp_path / "0.tar", [])
    with pytest.raises(UsageError, match=r"none of the 1 tars has a sample .* has no members"):
        plan_input(str(tmp_path))


def test_batches_keep_to_the_budget(tmp_path):
    members = [m for r in range(50) for m in sample(f"{r:03d}", jpg=b"x" * 10_000, txt=b"t")]
    write_tar(tmp_path / "a.tar", members)
    whole = all_rows(plan_input(str(tmp_path)))
    plan = plan_input(str(tmp_path), ReadOptions(byte_budget=50_000))
    assert [len(batch) for batch in read_rows(plan.items[0], plan.source)] == [5] * 10
    assert all_rows(plan) == whole


def test_names_that_are_too_long_or_not_utf_8_are_shortened_and_escaped(tmp_path):
    names = ["x" * 246, "x" * 245 + "y", "a\udcff", "a%FF"]
    for at, name in enumerate(names):
        with open(tmp_path / f"{name}.tar", "wb") as file:
            file.write(tar_bytes(img2dataset_members(2, first=2 * at)))
    plan = plan_input(f"{tmp_path}/*.tar")
    assert sorted(row["image"] for row in all_rows(plan)) == [b"image %d" % at for at in range(8)]
    by_shard = {item.shard: item.uri for item in plan.items}
    assert by_shard["a%FF"] == f"percent://{tmp_path}/a%FF.tar"
    assert by_shard["a%25FF"] == f"{tmp_path}/a%FF.tar"
    assert sorted(map(len, by_shard)) == [4, 6, 210, 210]
    prefixed = plan_input(f"{tmp_path}/x*.tar", ReadOptions(shard_prefix="p" * 100)).items
    assert len({item.shard for item in prefixed}) == 2
    assert {(len(item.shard), item.shard[:101]) for item in prefixed} == {(210, "p" * 100 + "x")}
    (alone,) = plan_input(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.tar")).items
    assert (alone.shard, count_rows(alone)) == ("a%FF", 2)
