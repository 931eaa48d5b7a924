import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import ShardError, UsageError
from clipsieve.formats.base import ReadOptions
from clipsieve.formats.registry import count_rows, fingerprint, plan_input, read_rows
from clipsieve.schemas.states import RowFailure, RowState
from tests.formats.files import N, all_rows, img2dataset_table, write_parquet


def invalid_strings(values):
    """A string array of bytes that nobody checked."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


def test_img2dataset_rows_come_back_exactly(tmp_path):
    table = img2dataset_table()
    write_parquet(tmp_path / "00000.parquet", table)
    plan = plan_input(str(tmp_path / "*.parquet"))
    rows = all_rows(plan)
    assert [row["image"] for row in rows] == table["jpg"].to_pylist()
    assert [row["caption"] for row in rows] == table["caption"].to_pylist()
    assert [row["source_status"] for row in rows] == table["status"].to_pylist()
    for name in ("url", "key", "error_message", "width"):
        assert [row[name] for row in rows] == table[name].to_pylist()
    assert rows[10]["failure"] == RowFailure(RowState.FETCH_FAILED, "404")
    assert rows[11]["failure"] is None
    assert plan.source.flavour == "img2dataset"
    assert plan.description == (
        "img2dataset parquet, 1 shard, 250 rows, image column jpg, caption column caption, "
        "no uid column; carried under other names: status as source_status"
    )


def test_batches_of_any_budget_hold_the_same_rows(tmp_path):
    write_parquet(tmp_path / "a.parquet", img2dataset_table())
    lengths, seen = set(), []
    for budget in (1, 3_000, 20_000, 64 << 20):
        plan = plan_input(str(tmp_path / "a.parquet"), ReadOptions(byte_budget=budget))
        lengths.add(len(list(read_rows(plan.items[0], plan.source))))
        seen.append(all_rows(plan))
    assert all(rows == seen[0] for rows in seen)
    assert len(lengths) == 4 and 1 in lengths and N in lengths


def test_large_files_are_cut_between_row_groups(tmp_path):
    table = img2dataset_table()
    write_parquet(tmp_path / "big.parquet", table, rows=60)
    write_parquet(tmp_path / "small.parquet", table.slice(0, 50))
    plan = plan_input(str(tmp_path), ReadOptions(rows_per_item=125))
    assert [item.shard for item in plan.items] == [
        "big.r000000000",
        "big.r000000120",
        "big.r000000240",
        "small",
    ]
    assert [item.row_groups for item in plan.items] == [(0, 2), (2, 4), (4, 5), None]
    assert [count_rows(item) for item in plan.items] == [120, 120, 10, 50]
    assert [item.fingerprint.rows for item in plan.items] == [120, 120, 10, 50]
    captions = table["caption"].to_pylist()
    assert [row["caption"] for row in all_rows(plan)] == captions + captions[:50]
    assert "cut into 4 items" in plan.description


def test_huggingface_structs_and_caption_lists(tmp_path):
    images = [{"bytes": b"a", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "captions": pa.array([["one", "two"], [], [None, "x"]], pa.list_(pa.string())),
            "thumbnail": pa.array([images[0]] * 3),
        }
    )
    features = {"image": {"_type": "Image"}, "thumbnail": {"_type": "Image"}}
    note = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": note})
    write_parquet(tmp_path / "train-00000-of-00001.parquet", table)
    plan = plan_input(str(tmp_path))
    rows = all_rows(plan)
    assert [row["image"] for row in rows] == [b"a", None, None]
    assert [row["caption"] for row in rows] == ["one", None, None]
    assert [row["image_path"] for row in rows] == ["a.jpg", "b.jpg", None]
    assert [row["captions"] for row in rows] == [["one", "two"], [], [None, "x"]]
    assert "thumbnail" not in plan.source.carried.names
    assert rows[1]["failure"] == RowFailure(
        RowState.MISSING_IMAGE, "no image bytes in the source; the source points at b.jpg"
    )
    assert rows[2]["failure"].error == "no image bytes in the source"
    assert plan.description == (
        "huggingface parquet, 1 shard, 3 rows, image column image, caption column captions "
        "(lists: the first entry is the caption), no uid column; pixels not carried: thumbnail"
    )


def test_types_that_differ_are_unified_over_the_plan(tmp_path):
    base = {"jpg": pa.array([b"x"]), "caption": ["c"]}
    first = pa.table(
        {
            **base,
            "error_message": pa.nulls(1),
            "width": pa.array([1], pa.int32()),
            "score": pa.array([1], pa.int64()),
            "tag": pa.array(["t"]).dictionary_encode(),
            "boxes": pa.array([[]], pa.list_(pa.null())),
            "nothing": pa.nulls(1),
            "uid": pa.array(["u1"], pa.large_string()),
        }
    )
    second = pa.table(
        {
            **base,
            "error_message": ["404"],
            "width": pa.array([2**40], pa.int64()),
            "score": pa.array([0.5], pa.float32()),
            "tag": pa.array(["s"], pa.large_string()),
            "boxes": pa.array([[1.5]], pa.list_(pa.float64())),
            "only_here": [7],
            "uid": pa.array([None], pa.string()),
        }
    )
    write_parquet(tmp_path / "0.parquet", first)
    write_parquet(tmp_path / "1.parquet", second)
    plan = plan_input(str(tmp_path / "*.parquet"))
    types = {field.name: str(field.type) for field in plan.source.carried}
    assert types == {
        "error_message": "string",
        "width": "int64",
        "score": "double",
        "tag": "string",
        "boxes": "list<element: double>",
        "nothing": "string",
        "only_here": "int64",
    }
    rows = all_rows(plan)
    assert [row["error_message"] for row in rows] == [None, "404"]
    assert [row["width"] for row in rows] == [1, 2**40]
    assert [row["score"] for row in rows] == [1.0, 0.5]
    assert [row["only_here"] for row in rows] == [None, 7]
    assert [row["boxes"] for row in rows] == [[], [1.5]]
    assert [row["uid"] for row in rows] == ["u1", None]


def test_types_that_contradict_name_column_types_and_shards(tmp_path):
    for name, value in (("0", ["a"]), ("1", [1])):
        table = pa.table({"jpg": pa.array([b"x"]), "caption": ["c"], "label": value})
        write_parquet(tmp_path / f"{name}.parquet", table)
    with pytest.raises(
        UsageError,
        match=r"column 'label' is string in .*/0\.parquet but int64 in .*/1\.parquet; make them",
    ):
        plan_input(str(tmp_path))


def test_names_of_ours_and_names_equal_but_for_case_are_changed(tmp_path):
    columns = ["jpg", "TEXT", "URL", "url", "Status", "row", "caption"]
    arrays = [pa.array([b"x"]), *(pa.array([name]) for name in columns[1:])]
    write_parquet(tmp_path / "a.parquet", pa.Table.from_arrays(arrays, names=columns))
    plan = plan_input(str(tmp_path), ReadOptions(caption_col="TEXT"))
    (row,) = all_rows(plan)
    assert plan.source.carried.names == [
        *("URL", "url_2", "source_Status", "source_row", "source_caption")
    ]
    assert (row["caption"], row["URL"], row["url_2"]) == ("TEXT", "URL", "url")
    assert "url as url_2" in plan.description


def test_equal_column_names_are_both_carried(tmp_path):
    arrays = [pa.array([b"x"]), pa.array(["c"]), pa.array([1]), pa.array([2])]
    table = pa.Table.from_arrays(arrays, names=["jpg", "caption", "a", "a"])
    write_parquet(tmp_path / "a.parquet", table)
    (row,) = all_rows(plan_input(str(tmp_path)))
    assert (row["a"], row["a_2"]) == (1, 2)


@pytest.mark.parametrize("kind", ["string", "binary", "list"])
def test_captions_that_are_not_utf8_are_replaced_and_said(tmp_path, kind):
    column = invalid_strings([b"fine", b"caf\xe9", None])
    if kind == "binary":
        column = column.cast(pa.binary())
    if kind == "list":
        column = pa.ListArray.from_arrays([0, 1, 2, 3], column)
    table = pa.table({"jpg": pa.array([b"x", b"", b"z"]), "caption": column})
    write_parquet(tmp_path / "a.parquet", table)
    rows = all_rows(plan_input(str(tmp_path)))
    assert [row["caption"] for row in rows] == ["fine", "caf\ufffd", None]
    assert [row["image"] for row in rows] == [b"x", b"", b"z"]
    assert [row["failure"] for row in rows] == [
        None,
        RowFailure(RowState.INVALID_CAPTION, "caption is not UTF-8: byte 0xe9 at 3"),
        None,
    ]


def test_dictionary_captions_are_read_as_text(tmp_path):
    caption = pa.array(["a", None, "a"]).dictionary_encode()
    write_parquet(tmp_path / "a.parquet", pa.table({"jpg": [b"x"] * 3, "caption": caption}))
    assert [row["caption"] for row in all_rows(plan_input(str(tmp_path)))] == ["a", None, "a"]


def test_invalid_strings_are_repaired_where_they_are_carried(tmp_path):
    bad = invalid_strings([b"ok", b"\xff"])
    table = pa.table(
        {
            "jpg": pa.array([b"x", b"y"]),
            "caption": ["c", "d"],
            "url": bad,
            "tags": pa.ListArray.from_arrays([0, 1, 2], bad),
            "meta": pa.StructArray.from_arrays([bad, pa.array([1, 2])], ["s", "n"]),
        }
    )
    write_parquet(tmp_path / "a.parquet", table)
    rows = all_rows(plan_input(str(tmp_path)))
    assert [row["url"] for row in rows] == ["ok", "\ufffd"]
    assert [row["tags"] for row in rows] == [["ok"], ["\ufffd"]]
    assert [row["meta"] for row in rows] == [{"s": "ok", "n": 1}, {"s": "\ufffd", "n": 2}]


def test_image_failures_outrank_caption_failures(tmp_path):
    table = pa.table({"jpg": pa.array([None], pa.binary()), "caption": invalid_strings([b"\xff"])})
    write_parquet(tmp_path / "a.parquet", table)
    (row,) = all_rows(plan_input(str(tmp_path)))
    assert row["failure"].state == RowState.MISSING_IMAGE


def test_references_are_checked_and_carried_as_they_are(tmp_path):
    table = pa.table(
        {
            "jpg": pa.array([b"x"] * 3),
            "caption": ["c"] * 3,
            "refs": pa.array([["a", None, "b"], None, []], pa.list_(pa.string())),
            "one": pa.array(["r", None, "s"]),
        }
    )
    write_parquet(tmp_path / "a.parquet", table)
    for column in ("refs", "one"):
        plan = plan_input(str(tmp_path), ReadOptions(references_col=column))
        rows = all_rows(plan)
        assert plan.source.references == column
        assert f"references column {column}" in plan.description
        assert [row["refs"] for row in rows] == [["a", None, "b"], None, []]
        assert [row["one"] for row in rows] == ["r", None, "s"]


def test_uids_keep_their_type_and_their_nulls(tmp_path):
    table = pa.table({"jpg": pa.array([b"x"] * 2), "caption": ["c"] * 2, "UID": [5, None]})
    table = table.append_column("id", [["a", "b"]])
    write_parquet(tmp_path / "a.parquet", table)
    assert [row["uid"] for row in all_rows(plan_input(str(tmp_path)))] == [5, None]
    plan = plan_input(str(tmp_path), ReadOptions(uid_col="id"))
    assert [row["uid"] for row in all_rows(plan)] == ["a", "b"]
    assert plan.source.carried.names == ["source_UID"]


def test_a_shard_with_nothing_to_carry_still_counts_its_rows(tmp_path):
    write_parquet(tmp_path / "a.parquet", pa.table({"jpg": [b"x"] * 3, "caption": ["c"] * 3}))
    assert len(all_rows(plan_input(str(tmp_path)))) == 3


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": [1]}, {}, r"no image column in .*a\.parquet: its columns are a \(int64\); name it"),
        ({"url": ["u"]}, {}, r"fetch the images of its urls first \(ingest\), or name it with"),
        ({"jpg": [b"x"], "n": [1]}, {}, r"no caption column in .*columns are jpg, n; name it with"),
        ({"jpg": [b"x"], "caption": [1]}, {}, r"caption column 'caption' in .* is int64, not text"),
        ({"jpg": [b"x"], "caption": ["c"]}, {"image_col": "png"}, r"image_col 'png' is not a colu"),
        ({"jpg": [b"x"], "caption": ["c"]}, {"image_col": "caption"}, r"is string, not bytes or a"),
        ({"jpg": [b"x"], "caption": ["c"]}, {"caption_col": "t"}, r"columns are jpg, caption"),
        ({"jpg": [b"x"], "caption": ["c"]}, {"uid_col": "id"}, r"uid_col 'id' is not a column"),
        ({"jpg": [b"x"], "caption": ["c"], "uid": [0.5]}, {}, r"uid column 'uid' in .* is double"),
        (
            {"jpg": [b"x"], "caption": ["c"], "r": [1]},
            {"references_col": "r"},
            r"references_col 'r' in .* is int64, not strings or lists of strings",
        ),
        (
            {"one": [{"bytes": b"x"}], "two": [{"bytes": b"x"}], "caption": ["c"]},
            {},
            r"has 2 image columns: one, two; choose one with image_col",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, columns, options, message):
    write_parquet(tmp_path / "a.parquet", pa.table(columns))
    with pytest.raises(UsageError, match=message):
        plan_input(str(tmp_path / "a.parquet"), ReadOptions(**options))


def test_captions_may_be_declared_absent(tmp_path):
    write_parquet(tmp_path / "a.parquet", pa.table({"image": [b"x"], "label": [3]}))
    plan = plan_input(str(tmp_path), ReadOptions(caption_col="none"))
    assert [(row["caption"], row["label"]) for row in all_rows(plan)] == [(None, 3)]
    assert "no captions" in plan.description


def test_damaged_shards_are_planned_with_a_problem_and_raise_when_read(tmp_path):
    write_parquet(tmp_path / "0.parquet", img2dataset_table())
    whole = write_parquet(tmp_path / "1.parquet", img2dataset_table()).read_bytes()
    (tmp_path / "1.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.parquet").write_bytes(b"")
    (tmp_path / "3.parquet").write_bytes(b"<html>not found</html>")
    write_parquet(tmp_path / "4.parquet", pa.table({"caption": ["c"], "url": ["u"]}))
    plan = plan_input(str(tmp_path / "*.parquet"))
    good, *bad = plan.items
    assert sum(len(batch) for batch in read_rows(good, plan.source)) == N
    assert "4 unreadable, first " in plan.description
    reasons = [
        r"1\.parquet: its Parquet footer cannot be read: .*; replace the file and run again",
        r"2\.parquet: it is empty \(0 bytes\); replace",
        r"3\.parquet: it is neither Parquet nor tar; replace",
        r"4\.parquet: it has no image column 'jpg', only caption, url; replace",
    ]
    for item, reason in zip(bad, reasons, strict=True):
        with pytest.raises(ShardError, match=f"cannot read .*{reason}"):
            list(read_rows(item, plan.source))
        with pytest.raises(ShardError, match=reason):
            count_rows(item)


def test_a_damaged_shard_of_another_format_than_asked_for_is_refused_by_name(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no footer")
    with pytest.raises(UsageError, match=r"a\.parquet is a Parquet file, but input_format is webd"):
        plan_input(str(tmp_path / "a.parquet"), ReadOptions(input_format="webdataset"))


def test_damage_inside_a_shard_raises(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", img2dataset_table(), compression="zstd")
    plan = plan_input(str(path))
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(6).data_page_offset
    content[start : start + 400] = b"\xff" * 400
    path.write_bytes(content)
    plan = plan_input(str(path))
    with pytest.raises(ShardError, match=r"cannot read .*a\.parquet: .*; replace the file"):
        list(read_rows(plan.items[0], plan.source))


def test_a_shard_that_changed_or_went_since_planning_raises(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", img2dataset_table())
    plan = plan_input(str(path))
    (item,) = plan.items
    assert fingerprint(item) == item.fingerprint
    write_parquet(path, img2dataset_table(rows=20))
    assert fingerprint(item) != item.fingerprint
    with pytest.raises(ShardError, match=r"it has changed since it was planned .* plan again$"):
        list(read_rows(item, plan.source))
    path.unlink()
    with pytest.raises(ShardError, match=r"the file does not exist any more; replace"):
        list(read_rows(item, plan.source))


def test_large_row_groups_are_streamed(tmp_path):
    """Arrow never holds more than a fraction of one 40 MB row group of 1 MB pages."""
    rows, size, budget = 400, 100_000, 4 << 20
    images = pa.array([bytes([row % 251]) * size for row in range(rows)])
    table = pa.table({"jpg": images, "caption": ["c"] * rows})
    path = write_parquet(
        tmp_path / "a.parquet",
        table,
        rows=rows,
        write_batch_size=8,
        use_dictionary=False,
        compression="none",
    )
    del images, table
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    plan = plan_input(str(path), ReadOptions(byte_budget=budget))
    before = pa.total_allocated_bytes()
    most = count = 0
    for batch in read_rows(plan.items[0], plan.source):
        held = sum(map(len, filter(None, batch.images)))
        assert held <= budget
        most, count = max(most, pa.total_allocated_bytes() - before), count + len(batch)
    assert count == rows
    assert most < 2 * budget
    assert pa.total_allocated_bytes() - before < 1 << 20
