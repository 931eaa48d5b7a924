import json
import os

import pyarrow as pa
import pytest

from clipsieve.errors import ShardError, UsageError
from clipsieve.formats.base import ReadOptions
from clipsieve.formats.registry import count_rows, fingerprint, plan_input, read_rows
from clipsieve.schemas.states import RowFailure, RowState
from tests.formats.files import all_rows, img2dataset_table, write_parquet


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    write(
        folder,
        **{
            "b.jpg": "B",
            "b.txt": "a bee",
            "a__x.PNG": "X",
            "a__x.TXT": "an ex",
            "a__alone.webp": "W",
            "a__notes.md": "no caption",
            "z.jpg": "",
            "z.txt": b"caf\xe9",
            ".hidden.jpg": "H",
            "orphan.txt": "of no picture",
        },
    )
    return folder


def test_captions_beside_pictures_are_found(photos):
    """clip-retrieval keys texts by 0.txt and images by 0.jpg, so that no pair ever matches."""
    plan = plan_input(str(photos))
    rows = all_rows(plan)
    assert [(row["file_name"], row["image"], row["caption"]) for row in rows] == [
        ("a/alone.webp", b"W", None),
        ("a/x.PNG", b"X", "an ex"),
        ("b.jpg", b"B", "a bee"),
        ("z.jpg", b"", "caf\ufffd"),
    ]
    assert [row["failure"] and row["failure"].state for row in rows] == [
        *(None, None, None, RowState.INVALID_CAPTION)
    ]
    assert plan.description == (
        "folder of pictures (folder), 1 folder, 4 rows, captions from txt (3 files), no uid; "
        "2 other files ignored"
    )


def test_folders_are_cut_by_sorted_path(photos):
    plan = plan_input(str(photos), ReadOptions(rows_per_item=3))
    assert [item.shard for item in plan.items] == ["photos-00000", "photos-00001"]
    assert [(item.start, item.files) for item in plan.items] == [(0, (0, 3)), (3, (3, 4))]
    assert [count_rows(item) for item in plan.items] == [3, 1]
    assert all_rows(plan) == all_rows(plan_input(str(photos)))
    assert [fingerprint(item) for item in plan.items] == [item.fingerprint for item in plan.items]


def test_batches_of_any_budget_hold_the_same_rows(photos):
    plan = plan_input(str(photos), ReadOptions(byte_budget=1))
    assert len(list(read_rows(plan.items[0], plan.source))) == 4
    assert all_rows(plan) == all_rows(plan_input(str(photos)))


def test_a_folder_that_changed_since_planning_raises(photos):
    plan = plan_input(str(photos))
    (photos / "c.jpg").write_bytes(b"new")
    with pytest.raises(ShardError, match="the folder has changed since it was planned; plan again"):
        list(read_rows(plan.items[0], plan.source))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_metadata_gives_captions_and_columns(tmp_path, form):
    lines = [
        {"file_name": "a.jpg", "text": "one", "stars": 3},
        {"file_name": "a.jpg", "text": "two", "stars": 4},
        {"file_name": "./sub/gone.jpg", "text": "three", "stars": 5},
    ]
    if form == "csv":
        text = "\ufefffile_name,text,stars\n" + "".join(
            f"{line['file_name']},{line['text']},{line['stars']}\n" for line in lines
        )
    else:
        text = "\n".join(map(json.dumps, lines)) + "\n"
    write(tmp_path / "f", **{"a.jpg": "A", "b.jpg": "B", f"metadata.{form}": text})
    plan = plan_input(str(tmp_path / "f"))
    rows = all_rows(plan)
    number = str if form == "csv" else int
    assert [(r["file_name"], r["image"], r["caption"], r["stars"]) for r in rows] == [
        ("a.jpg", b"A", "one", number(3)),
        ("a.jpg", b"A", "two", number(4)),
        ("b.jpg", b"B", None, None),
        ("sub/gone.jpg", None, "three", number(5)),
    ]
    assert rows[3]["failure"] == RowFailure(RowState.MISSING_IMAGE, "there is no file sub/gone.jpg")
    assert plan.description == (
        "folder of pictures (imagefolder), 1 folder, 4 rows, captions from field text, no uid; "
        "1 named in metadata but missing"
    )


def test_metadata_in_subfolders_names_files_beside_it(tmp_path):
    line = json.dumps({"file_name": "a.jpg", "caption": "sub", "uid": 9})
    write(tmp_path / "f", **{"s__a.jpg": "A", "a.jpg": "B", "s__metadata.jsonl": line})
    rows = all_rows(plan_input(str(tmp_path / "f")))
    assert [(row["file_name"], row["caption"], row["uid"]) for row in rows] == [
        *(("a.jpg", None, None), ("s/a.jpg", "sub", 9))
    ]


def test_metadata_that_cannot_be_used_is_refused(tmp_path):
    folder = tmp_path / "f"
    write(folder, **{"a.jpg": "A", "metadata.jsonl": '{"image": "a.jpg"}'})
    with pytest.raises(
        UsageError, match=r"no file_name in line 1 of metadata\.jsonl in .*/f; each"
    ):
        plan_input(str(folder))
    write(folder, **{"metadata.jsonl": "{"})
    with pytest.raises(
        UsageError, match=r"cannot read metadata\.jsonl in .*/f: .*; mend or remove"
    ):
        plan_input(str(folder))
    write(folder, **{"metadata.jsonl": "", "metadata.csv": "file_name\n"})
    with pytest.raises(UsageError, match=r"both metadata\.csv and metadata\.jsonl are in .*/f; k"):
        plan_input(str(folder))


def test_img2dataset_files_output_is_a_folder(tmp_path):
    folder = tmp_path / "out"
    fields = {"url": "u", "status": "success", "key": "000", "caption": "c", "width": 3}
    write(folder, **{"00000__000.jpg": "J", "00000__000.txt": "c"})
    write(folder, **{"00000__000.json": json.dumps(fields), "00000_stats.json": "{}"})
    write_parquet(folder / "00000.parquet", img2dataset_table().drop_columns(["jpg"]))
    plan = plan_input(str(folder))
    (row,) = all_rows(plan)
    assert (row["image"], row["caption"], row["url"], row["width"]) == (b"J", "c", "u", 3)
    assert (row["file_name"], row["extra"]) == ("00000/000.jpg", None)
    assert plan.source.flavour == "img2dataset"
    assert "1 Parquet file beside the pictures not read" in plan.description


def test_columns_of_folders_are_checked(photos):
    with pytest.raises(UsageError, match="image_col 'jpg' has no meaning for folders of pictures"):
        plan_input(str(photos), ReadOptions(image_col="jpg"))
    with pytest.raises(UsageError, match=r"caption_col 'alt' is not a column of .*photos; its col"):
        plan_input(str(photos), ReadOptions(caption_col="alt"))


def test_several_folders_are_named_by_their_place(tmp_path):
    write(tmp_path / "cats", **{"1.jpg": "c"})
    write(tmp_path / "dogs", **{"1.jpg": "d"})
    plan = plan_input(str(tmp_path / "*"))
    assert [item.shard for item in plan.items] == ["cats-00000", "dogs-00000"]
    assert [row["image"] for row in all_rows(plan)] == [b"c", b"d"]


def test_names_that_are_not_utf_8_are_escaped_and_opened_by_their_bytes(tmp_path):
    place = os.fsencode(tmp_path) + b"/ph\xf6tos"
    os.mkdir(place)
    lines = b'{"file_name": "gone\\udcff.jpg", "n": 1}\n{"file_name": "50%\\udce9.jpg", "n": 2}\n'
    files = {b"50%\xe9.jpg": b"E", b"50%\xe9.txt": b"a text", b"b.jpg": b"B"}
    for name, content in {**files, b"metadata.jsonl": lines}.items():
        with open(place + b"/" + name, "wb") as file:
            file.write(content)
    pattern = os.fsdecode(place)
    plan = plan_input(pattern)
    (item,) = plan.items
    assert (item.shard, item.uri) == ("ph%F6tos-00000", f"percent://{tmp_path}/ph%F6tos")
    assert item.from_json(item.to_json()) == item and fingerprint(item) == item.fingerprint
    assert plan_input(item.uri).items == plan.items
    rows = all_rows(plan)
    assert [(row["file_name"], row["image"], row["caption"], row["n"]) for row in rows] == [
        ("50%25%E9.jpg", b"E", "a text", 2),
        ("b.jpg", b"B", None, None),
        ("gone%FF.jpg", None, None, 1),
    ]
    assert rows[2]["failure"].error.startswith("there is no file gone%FF.jpg")
    assert pa.array([row["file_name"] for row in rows]).validate(full=True) is None


def test_a_picture_that_is_a_pipe_is_a_row_without_one(photos):
    os.mkfifo(photos / "pipe.jpg")
    (row,) = (row for row in all_rows(plan_input(str(photos))) if row["file_name"] == "pipe.jpg")
    assert row["image"] is None
    assert "cannot read pipe.jpg: it is a named pipe, not a file" in row["failure"].error
