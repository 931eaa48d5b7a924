"""Lists of every kind are read as they are."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import UsageError
from clipsieve.ingest.lists import UrlList, open_list


def rows(found: UrlList) -> list[dict[str, object]]:
    return [row for table in found.batches() for row in table.to_pylist()]


def opened(path: Path | str, **named: object) -> UrlList:
    settings = {"url_col": None, "caption_col": None, "carry": (), **named}
    return open_list((str(path),), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "url", "caption", "carried"),
    [
        (["uid", "url", "text", "original_width", "sha256"], "url", "text", ["uid"]),  # DataComp
        (["SAMPLE_ID", "URL", "TEXT", "HEIGHT", "LICENSE"], "URL", "TEXT", []),  # LAION-400M
        (["id", "url", "text", "clip_similarity_vitb32"], "url", "text", []),  # COYO
        (["URL", "top_caption", "all_captions"], "URL", "top_caption", []),  # LAION-COCO
        (["image_url", "caption", "text"], "image_url", "caption", []),
        (["url"], "url", None, []),
    ],
)
def test_columns_of_published_lists_are_found(
    tmp_path: Path, columns: list[str], url: str, caption: str | None, carried: list[str]
) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({name: [f"{name}0", None] for name in columns}), path)
    found = opened(path)
    assert found.origins == (*carried, *([caption] if caption else []), url)
    expected = {**{name: f"{name}0" for name in carried}, "url": f"{url}0"}
    if caption:
        expected["caption"] = f"{caption}0"
    assert rows(found) == [expected, dict.fromkeys(expected)]


def test_columns_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    columns = {"a": ["u"], "b": ["c"], "n": pa.array([3], pa.int16()), "url": ["other"]}
    pq.write_table(pa.table(columns), path)
    found = opened(path, url_col="a", caption_col="b", carry=("n",))
    assert rows(found) == [{"n": 3, "caption": "c", "url": "u"}]
    assert found.schema.field("n").type == pa.int16()


TEXTS = {
    "list.csv": 'url,caption,n\nhttp://a/1,"two\nlines, ""quoted""",7\nhttp://a/2,,8\n',
    "list.tsv": 'url\tcaption\tn\nhttp://a/1\t"two\nlines, ""quoted"""\t7\nhttp://a/2\t\t8\n',
    "list.jsonl": "\n".join(
        [
            json.dumps({"url": "http://a/1", "caption": 'two\nlines, "quoted"', "n": 7}),
            "",
            json.dumps({"url": "http://a/2", "caption": "", "n": 8}),
        ]
    ),
}


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("name", list(TEXTS))
def test_values_of_text_lists_are_text(tmp_path: Path, name: str, is_packed: bool) -> None:
    path = tmp_path / (name + ".gz" if is_packed else name)
    content = TEXTS[name].encode()
    path.write_bytes(gzip.compress(content) if is_packed else content)
    assert rows(opened(path, carry=("n",))) == [
        {"n": "7", "caption": 'two\nlines, "quoted"', "url": "http://a/1"},
        {"n": "8", "caption": "", "url": "http://a/2"},
    ]


def test_json_may_lack_a_column_and_has_null(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"url": null, "caption": "a"}\n{"url": "http://a"}\n')
    assert rows(opened(path)) == [
        {"caption": "a", "url": None},
        {"caption": None, "url": "http://a"},
    ]


def test_a_text_file_has_a_url_a_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfhttp://a/1\r\n\r\nhttp://a/2\xff\n  http://a/3  \n")
    assert [row["url"] for row in rows(opened(path))] == [
        "http://a/1",
        "http://a/2\ufffd",
        "http://a/3",
    ]


def test_files_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b.parquet", "sub/c.parquet", "a.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"url": [name + "0", name + "1"]}), tmp_path / name)
    (tmp_path / "README.md").write_text("not a list")
    (tmp_path / "a_stats.json.txt~").write_text("{}")
    expected = [f"{n}{i}" for n in ("a.parquet", "b.parquet", "sub/c.parquet") for i in (0, 1)]
    assert [row["url"] for row in rows(opened(tmp_path))] == expected
    assert [row["url"] for row in rows(opened(tmp_path / "*.parquet"))] == expected[:4]


def test_types_of_a_later_file_become_those_of_the_first(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["a"], "n": pa.array([1], pa.int64())}), tmp_path / "1.parquet")
    dictionary = pa.array(["b"]).dictionary_encode()
    pq.write_table(
        pa.table({"n": pa.array([2], pa.int32()), "url": dictionary}), tmp_path / "2.parquet"
    )
    assert rows(opened(tmp_path, carry=("n",))) == [{"n": 1, "url": "a"}, {"n": 2, "url": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "named", "message"),
    [
        ("a.xlsx", b"PK", {}, r"list .*a\.xlsx has none of the suffixes \.parquet"),
        (
            "a.csv",
            b"link,caption\nx,y\n",
            {},
            "no column with URLs in .*: its columns are li",
        ),
        ("a.csv", b"url,url2\nx,y\n", {"url_col": "URL"}, "url_col 'URL' is not a column of"),
        ("a.csv", b"url,a\nx,y\n", {"carry": ("b",)}, "carry 'b' is not a column of"),
        ("a.csv", b"url,status\nx,y\n", {"carry": ("status",)}, "carry 'status' of .* is the name"),
        ("a.csv", b"url,a\nx,y\nz\n", {}, r"list .*a\.csv cannot be read: .*; correct it"),
        ("a.jsonl", b'{"url": "x"}\n{"url', {}, "cannot be read: record 2 is not JSON"),
        ("a.jsonl", b"[1]", {}, "record 1 is not a table of columns"),
        ("a.parquet", b"PAR1", {}, "cannot be read"),
        ("a.txt.gz", b"not gzip", {}, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, name: str, content: bytes, named: dict[str, object], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        rows(opened(tmp_path / name, **named))


def test_a_url_that_is_no_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"column 'url' of .* is int64, not text"):
        opened(tmp_path / "a.parquet")
