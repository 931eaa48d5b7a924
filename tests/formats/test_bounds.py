"""A small file cannot take the machine's memory: rows are read within bounds, or not at all."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import ShardError, UsageError
from clipsieve.formats.arrow_types import decode_captions, decoded_bytes, shared_values
from clipsieve.formats.base import MAX_CAPTION_BYTES, ReadOptions
from clipsieve.formats.columns import MAX_COLUMNS, unique_labels
from clipsieve.formats.parquet_bounds import MAX_ROWS, FileBounds
from clipsieve.formats.parquet_pages import count_references, measure_dictionary, read_pages
from clipsieve.formats.registry import count_rows, plan_input, read_rows
from clipsieve.schemas.states import RowState
from tests.formats.files import all_rows, batches, sample, tar_bytes, write_parquet, write_tar

#: Reads every input given, one after the other, and prints the growth of its peak memory in MB.
READER = """
import json, re, sys
from clipsieve.errors import ClipsieveError
from clipsieve.formats.base import ReadOptions
from clipsieve.formats.registry import count_rows, plan_input, read_rows

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10

results = {}
for path in sys.argv[1:]:
    before = peak()
    rows, error = 0, None
    try:
        plan = plan_input(path, ReadOptions(byte_budget=16 << 20))
        for item in plan.items:
            rows += sum(map(len, read_rows(item, plan.source)))
    except ClipsieveError as failure:
        error = str(failure)
    results[path] = [peak() - before, rows, error]
print(json.dumps(results))
"""


def repeated(value, rows, kind):
    return pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(rows, np.int32)), pa.array([value], kind)
    )


def write_bomb(path, columns, rows, **options):
    """A table of `rows` rows whose other columns are small."""
    small = {"jpg": [b"jpg"] * rows, "caption": ["c"] * rows}
    options = {"compression": "zstd", "dictionary_pagesize_limit": 1 << 30} | options
    return str(write_parquet(path, pa.table(small | columns), rows=rows, **options))


def chunk_pages(path, column):
    with pq.ParquetFile(path) as file, open(path, "rb") as handle:
        group = file.metadata.row_group(0)
        chunk = group.column(file.schema_arrow.names.index(column))

        def read_at(offset, size):
            handle.seek(offset)
            return handle.read(size)

        return measure_dictionary(read_at, chunk, read_pages(read_at, chunk))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_page_headers_say_what_pages_become(tmp_path, version):
    options = {"data_page_version": version, "compression": "zstd"}
    texts = pa.table({"text": ["x" * 100_000, "y"] * 50, "number": pa.array(range(100))})
    path = write_parquet(
        tmp_path / "a.parquet", texts, dictionary_pagesize_limit=1 << 20, **options
    )
    pages = chunk_pages(path, "text")
    assert (pages.largest_copy, pages.all_dictionary, pages.values) == (100_000, True, 100)
    assert 100_000 < pages.dictionary < pages.held < 101_000
    assert pages.stored < 1_000
    plain = write_parquet(tmp_path / "b.parquet", texts, use_dictionary=False, **options)
    pages = chunk_pages(plain, "text")
    assert (pages.largest_copy, pages.all_dictionary, pages.dictionary) == (0, False, 0)
    assert pages.held >= 5_000_000
    prefixed = write_parquet(
        tmp_path / "c.parquet",
        texts,
        use_dictionary=False,
        column_encoding={"text": "DELTA_BYTE_ARRAY", "number": "DELTA_BINARY_PACKED"},
        **options,
    )
    assert chunk_pages(prefixed, "text").largest_copy >= 100_000


def test_equal_entries_of_a_dictionary_are_one_object():
    column = pa.array(["long", None, "long", "b"]).dictionary_encode()
    values = shared_values(column.slice(1))
    assert values == [None, "long", "b"]
    assert decoded_bytes(repeated("x" * 1000, 500, pa.string())) == 500_000
    lists = pa.ListArray.from_arrays([0, 200, 500], repeated("x" * 1000, 500, pa.string()))
    assert decoded_bytes(lists) == 500_000


def test_captions_over_the_limit_are_cut_and_said():
    for column in (
        pa.array(["é" * 600, "ok", None, "é" * 600]),
        pa.array(["é" * 600, "ok", None, "é" * 600]).dictionary_encode(),
        pa.array([["é" * 600, "x"], ["ok"], [], ["é" * 600]]),
        pa.array([b"\xc3\xa9" * 600, b"ok", None, b"\xc3\xa9" * 600]),
    ):
        captions, failures = decode_captions(column, 1100)
        assert captions == ["é" * 500, "ok", None, "é" * 500]
        assert failures.keys() == {0, 3}
        assert failures[0].state is RowState.CAPTION_TOO_LONG
        assert failures[0].error == (
            "caption of 1,200 bytes, the limit is 1,100; its first 1,000 bytes are kept"
        )
        assert decode_captions(column, 1200)[1] == {}


def test_captions_of_tars_and_folders_have_the_same_limit(tmp_path):
    long = "x" * (MAX_CAPTION_BYTES + 1)
    members = sample("a", jpg=b"1", txt=long.encode()) + sample("b", jpg=b"2", txt=b"fine")
    folder = tmp_path / "folder"
    write_tar(tmp_path / "t.tar", members)
    for name, content in members:
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    field = sample("a", jpg=b"1", json={"caption": long}) + sample(
        "b", jpg=b"", json={"caption": "fine"}
    )
    write_tar(tmp_path / "f.tar", field)
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "1.jpg").write_bytes(b"1")
    (tmp_path / "csv" / "2.jpg").write_bytes(b"2")
    wide = "z" * 200_000  # over the csv module's own limit of 131,072
    (tmp_path / "csv" / "metadata.csv").write_text(
        f"file_name,text,other\n1.jpg,{long},a\n2.jpg,fine,{wide}\n"
    )
    for path in (tmp_path / "t.tar", folder, tmp_path / "f.tar", tmp_path / "csv"):
        first, second = all_rows(plan_input(str(path)))
        assert first["caption"] == "x" * 1000
        assert first["failure"].state is RowState.CAPTION_TOO_LONG
        assert first["failure"].error.startswith("caption of 65,537 bytes, the limit is 65,536")
        assert (second["caption"], second["failure"]) == ("fine", None)
    assert second["other"] == wide


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    """Small files that stand for gigabytes, by what they do."""
    folder = tmp_path_factory.mktemp("bombs")
    image = b"\xff\xd8\xff" + bytes(30_000_000)
    lists = pa.ListArray.from_arrays([0, 45_000_000], pa.nulls(45_000_000, pa.int64()))
    files = {
        "caption": write_bomb(
            folder / "caption.parquet",
            {"caption": repeated("x" * 5_000_000, 3000, pa.string())},
            3000,
        ),
        "image": write_bomb(
            folder / "image.parquet", {"jpg": repeated(image, 200, pa.binary())}, 200
        ),
        "struct": write_bomb(
            folder / "struct.parquet",
            {
                "jpg": pa.StructArray.from_arrays(
                    [repeated(image, 200, pa.binary()), pa.array(["p"] * 200)], ["bytes", "path"]
                )
            },
            200,
        ),
        "carried": write_bomb(
            folder / "carried.parquet", {"url": repeated("u" * 5_000_000, 3000, pa.string())}, 3000
        ),
        "page": write_bomb(
            folder / "page.parquet",
            {"url": ["u" * 1_000_000] * 140},
            140,
            use_dictionary=False,
            compression="lz4",
            data_page_size=1 << 30,
            write_batch_size=1000,
            write_statistics=False,
        ),
        "prefix": write_bomb(
            folder / "prefix.parquet",
            {"caption": ["y" * 500_000] * 400},
            400,
            use_dictionary=False,
            column_encoding={"caption": "DELTA_BYTE_ARRAY", "jpg": "PLAIN"},
        ),
        "list": write_bomb(folder / "list.parquet", {"numbers": lists}, 1),
        "rows": write_bomb(
            folder / "rows.parquet",
            {name: pa.nulls(MAX_ROWS + 1, pa.binary()) for name in ("jpg", "caption")},
            MAX_ROWS + 1,
        ),
        "text": str(folder / "text.tar.gz"),
        "header": str(folder / "header.tar.gz"),
        "sparse": str(folder / "sparse.tar"),
    }
    members = sample("a", jpg=b"1", txt=b"x")
    for name, info in {
        "text": ("b.txt", tarfile.REGTYPE),
        "header": ("h", tarfile.XHDTYPE),
    }.items():
        header = tarfile.TarInfo(info[0])
        header.type, header.size = info[1], 400_000_000
        with gzip.open(files[name], "wb", 1) as file:
            file.write(tar_bytes(members)[: 4 * 512] + header.tobuf())
            for _ in range(80 if name == "text" else 10):
                file.write(bytes(1_000_000))
    (folder / "sparse.tar").write_bytes(sparse_tar("b.jpg", 40_000_000_000, tar_bytes(members)))
    return files


def sparse_tar(name, claimed, before):
    """A tar with 512 bytes of `name` at the end of `claimed`."""
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398] = b"\x80" + (claimed - 512).to_bytes(11, "big")
    header[398:410] = b"%011o\0" % 512
    header[410:483] = bytes(73)
    header[483:495] = b"\x80" + claimed.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return before[: 4 * 512] + bytes(header) + b"x" * 512 + bytes(1024)


def test_bombs_are_read_in_bounded_memory(bombs):
    assert max(map(os.path.getsize, bombs.values())) < 2_000_000
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", READER, *bombs.values()],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = {name: json.loads(done.stdout)[path] for name, path in bombs.items()}
    assert {name: growth for name, (growth, _, _) in results.items() if growth > 450} == {}
    read = {name: rows for name, (_, rows, error) in results.items() if error is None}
    assert read == {"caption": 3000, "image": 200, "struct": 200, "prefix": 400, "sparse": 2}
    reasons = {name: error for name, (_, _, error) in results.items() if error is not None}
    assert "a carried column unfolds to 640,000,000 bytes in 128 rows" in reasons["carried"]
    assert "leave the column out with --leave-out" in reasons["carried"]
    assert "row group 0 unfolds" in reasons["page"]
    assert "most of them in column 'url'" in reasons["page"]
    assert "the lists of column 'numbers.list.element' in row group 0 have" in reasons["list"]
    assert "1,048,577 rows in one work item, the limit is 1,048,576" in reasons["rows"]
    assert "a decompression bomb is not read" in reasons["text"]
    assert "h claims a header of 400,000,000 bytes" in reasons["header"]


def test_an_image_member_over_the_limit_is_not_read(bombs, tmp_path):
    rows = all_rows(plan_input(bombs["sparse"]))
    assert [row["key"] for row in rows] == ["a", "b"]
    assert rows[1]["failure"].state is RowState.IMAGE_TOO_LARGE
    assert rows[1]["failure"].error == "40,000,000,000 bytes, the limit is 67,108,864"
    (tmp_path / "a.jpg").write_bytes(b"x" * 11)
    (tmp_path / "b.jpg").write_bytes(b"x" * 10)
    first, second = all_rows(plan_input(str(tmp_path), ReadOptions(max_image_bytes=10)))
    assert (first["image"], first["failure"].state) == (None, RowState.IMAGE_TOO_LARGE)
    assert second["image"] == b"x" * 10


def test_rows_of_a_dictionary_share_their_image(bombs):
    plan = plan_input(bombs["image"], ReadOptions(byte_budget=16 << 20))
    batch = next(read_rows(plan.items[0], plan.source))
    objects = {id(image) for image in batch.images}
    assert (len(batch), len(objects)) == (128, 1)


def test_ordinary_row_groups_are_read_as_before(tmp_path):
    rows = 300
    table = pa.table(
        {
            "jpg": [os.urandom(2_000) for _ in range(rows)],
            "caption": [f"caption {row}" for row in range(rows)],
            "url": [f"http://host/{row}" for row in range(rows)],
            "tags": [["a", "b"]] * rows,
        }
    )
    path = write_parquet(tmp_path / "a.parquet", table, rows=rows)
    with pq.ParquetFile(path) as file, open(path, "rb") as handle:

        def read_at(offset, size):
            handle.seek(offset)
            return handle.read(size)

        bounds = FileBounds(read_at, file.metadata).bound(0, 128)
        assert bounds.rows >= 128
        assert bounds.dictionaries == frozenset()
        damaged = lambda offset, size: b"\xff" * size  # noqa: E731
        with pytest.raises(ValueError, match="page header"):
            FileBounds(damaged, file.metadata).bound(0, 128)


def list_table(rows, tags):
    """A table of `rows` rows, each with the first of `tags` and so on, three a row."""
    offsets = np.arange(rows + 1, dtype=np.int32) * 3
    values = pa.array(tags).take(pa.array(np.arange(rows * 3) % len(tags)))
    lists = pa.ListArray.from_arrays(offsets, values)
    confidence = pa.array(np.zeros(rows * 3, np.float32))
    records = pa.StructArray.from_arrays([values, confidence], ["label", "confidence"])
    nested = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32), lists)
    return {
        "tags": lists,
        "nested": nested,
        "records": pa.ListArray.from_arrays(offsets, records),
    }


@pytest.mark.parametrize("compression", ["snappy", "zstd", "lz4", "none"])
@pytest.mark.parametrize("words", [50, 1_000, 5_000])
def test_lists_of_words_are_read_whatever_the_size_of_their_dictionary(
    tmp_path, words, compression
):
    rows = 40_000
    lists = list_table(rows, [f"word{number:06}" for number in range(words)])
    small = {"jpg": pa.array([b"jpg"] * rows), "caption": pa.array(["c"] * rows)}
    path = write_parquet(
        tmp_path / "a.parquet", pa.table(small | lists), rows, compression=compression
    )
    plan = plan_input(str(path))
    read = pa.concat_tables(batch.carried for batch in batches(plan.items[0], plan))
    for name, column in lists.items():
        assert read[name].combine_chunks().to_pylist() == column.to_pylist()


def test_a_list_column_of_a_million_values_is_read(tmp_path):
    rows = 350_000
    tags = list_table(rows, [f"word{number:06}" for number in range(1_000)])["tags"]
    table = pa.table({"jpg": [b"jpg"] * rows, "caption": ["c"] * rows, "tags": tags})
    plan = plan_input(str(write_parquet(tmp_path / "a.parquet", table, rows)))
    assert sum(len(batch) for batch in batches(plan.items[0], plan)) == rows


def test_one_long_value_among_short_ones_stays_in_the_dictionary_of_lists(tmp_path):
    rows = 40_000
    tags = list_table(rows, ["x" * 10_000, *(f"word{number}" for number in range(999))])["tags"]
    table = pa.table({"jpg": [b"jpg"] * rows, "caption": ["c"] * rows, "tags": tags})
    plan = plan_input(str(write_parquet(tmp_path / "a.parquet", table, rows)))
    read = pa.concat_tables(batch.carried for batch in batches(plan.items[0], plan))
    assert read["tags"].combine_chunks().equals(tags)


def bounds_of(path, rows=128):
    """The bounds of a file's first row group, and the bytes read for them."""
    sizes = []
    with pq.ParquetFile(path) as file, open(path, "rb") as handle:

        def read_at(offset, size):
            handle.seek(offset)
            sizes.append(size)
            return handle.read(size)

        return FileBounds(read_at, file.metadata).bound(0, rows), sum(sizes)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "lz4", "none"])
@pytest.mark.parametrize("every", [0, 7])
def test_pictures_in_a_dictionary_are_bounded_by_their_indices(tmp_path, compression, every):
    rows = 500
    images = [None if every and row % every == 1 else os.urandom(10_000) for row in range(rows)]
    table = pa.table({"jpg": images, "caption": [f"caption {row}" for row in range(rows)]})
    path = write_parquet(tmp_path / "a.parquet", table, rows, compression=compression)
    bounds, read = bounds_of(path)
    assert (bounds.rows >= 128, bounds.dictionaries) == (True, frozenset())
    assert read < 10_000, "the dictionary itself was read"
    images = [images[0]] * 250 + images[250:]
    table = table.set_column(0, "jpg", [images])
    path = write_parquet(tmp_path / "b.parquet", table, rows, compression=compression)
    bounds, read = bounds_of(path)
    assert read > 1_000_000, "one picture is in many rows, and its size was not looked up"
    assert bounds.rows * 10_000 <= 64 << 20


def test_references_to_a_dictionary_are_counted(tmp_path):
    for values, most in (
        (["a", "b", "c"] * 5 + ["b"], 6),
        ([None, "a", None, "b"] * 9, 9),
        ([f"value {number}" for number in range(1_001)], 1),
        (["same"] * 900, 900),
        ([None] * 20, 0),
    ):
        table = pa.table({"text": pa.array(values, pa.string())})
        path = write_parquet(tmp_path / "a.parquet", table, len(values))
        with pq.ParquetFile(path) as file, open(path, "rb") as handle:

            def read_at(offset, size, handle=handle):
                handle.seek(offset)
                return handle.read(size)

            chunk = file.metadata.row_group(0).column(0)
            pages = read_pages(read_at, chunk)
            assert count_references(read_at, chunk, pages, levels=1) == most
            if most == 900:
                whole = read_pages(read_at, chunk, within=0)
                assert whole.index_pages is None
                assert count_references(read_at, chunk, whole, levels=1) is None


def test_json_that_cannot_be_carried_is_one_rows_business(tmp_path):
    deep = b'{"k": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    nested = b'{"k": ' + b"[" * 300 + b"]" * 300 + b"}"
    lone = b'{"\\ud800": 1, "v": "\\udfff", "status": "failed \\ud801"}'
    large = b'{"k": "' + b"x" * (5 << 20) + b'"}'
    members = [
        *sample("a", jpg=b"1", txt=b"a", json=deep),
        *sample("b", jpg=b"2", txt=b"b", json=nested),
        *sample("c", txt=b"c", json=lone),
        *sample("d", jpg=b"4", txt=b"d", json=large),
        *sample("e\udcff", jpg=b"5", txt=b"e"),
    ]
    write_tar(tmp_path / "a.tar", members)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in members[:-2]:
        (folder / name).write_bytes(content)
    (folder / "c.jpg").write_bytes(b"3")
    for path in (tmp_path / "a.tar", folder):
        rows = all_rows(plan_input(str(path)))
        assert [row["caption"] for row in rows[:4]] == ["a", "b", "c", "d"]
        extras = [json.loads(row["extra"] or "{}") for row in rows]
        assert extras[0]["invalid_json"].startswith('{"k": [[')
        assert extras[1]["invalid_json"].startswith('{"k": [[')
        assert rows[2]["?"] == 1 or extras[2]["?"] == 1
        assert extras[3]["invalid_json"].startswith("5,242,")
    assert rows[-1]["key" if "key" in rows[-1] else "file_name"] == "d.jpg"


def test_a_null_among_lists_of_one_length_is_carried(tmp_path):
    vectors = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    boxes = pa.array(
        [{"box": [1, 2]}, None, {"box": None}], pa.struct([("box", pa.list_(pa.int8(), 2))])
    )
    table = pa.table({"jpg": [b"1", b"2", b"3"], "caption": list("abc"), "v": vectors, "b": boxes})
    rows = all_rows(plan_input(str(write_parquet(tmp_path / "a.parquet", table))))
    assert [row["v"] for row in rows] == [[1.0, 2.0], None, [3.0, 4.0]]
    assert [row["b"] for row in rows] == [{"box": [1, 2]}, None, {"box": None}]


def test_columns_can_be_left_out(tmp_path):
    table = pa.table({"jpg": [b"1"], "caption": ["c"], "a": [1], "b": ["x"]})
    path = str(write_parquet(tmp_path / "a.parquet", table))
    plan = plan_input(path, ReadOptions(leave_out=("b",)))
    assert "left out: b" in plan.description
    [row] = all_rows(plan)
    assert row.keys() == {"image", "caption", "failure", "uid", "a"}
    with pytest.raises(UsageError, match="leave_out 'z' is not a column of"):
        plan_input(path, ReadOptions(leave_out=("z",)))
    with pytest.raises(UsageError, match="references_col 'b' is to be left out too"):
        ReadOptions(references_col="b", leave_out=("b",))


def test_too_many_columns_fail_their_shard_alone(tmp_path):
    many = pa.table({f"c{column}": ["v"] for column in range(MAX_COLUMNS + 1)})
    write_parquet(tmp_path / "many.parquet", many)
    write_parquet(tmp_path / "few.parquet", pa.table({"jpg": [b"1"], "caption": ["c"]}))
    plan = plan_input(str(tmp_path / "*.parquet"))
    few, bad = plan.items
    assert len(batches(few, plan)) == 1
    with pytest.raises(ShardError, match="2,001 columns, the limit is 2,000"):
        batches(bad, plan)
    names = [f"c{column}" for column in range(20_000)]
    assert unique_labels([*names, "c1"])[-1] == "c1_2"


def test_fields_of_samples_beyond_the_limit_are_kept_in_extra(tmp_path):
    fields = {f"f{number:05}": number for number in range(MAX_COLUMNS + 10)}
    write_tar(tmp_path / "a.tar", sample("a", jpg=b"1", txt=b"a", json=fields))
    plan = plan_input(str(tmp_path / "a.tar"))
    assert len(plan.source.carried) == MAX_COLUMNS + 1  # extra itself
    [row] = all_rows(plan)
    assert json.loads(row["extra"])["f02009"] == 2009


def test_a_sample_of_countless_members_is_refused(tmp_path):
    buffer = io.BytesIO(tar_bytes([(f"a.x{number}", b"") for number in range(1_002)]))
    (tmp_path / "a.tar").write_bytes(tar_bytes(sample("a", jpg=b"1", txt=b"a")))
    (tmp_path / "b.tar").write_bytes(buffer.getvalue())
    plan = plan_input(str(tmp_path / "*.tar"))
    with pytest.raises(ShardError, match="sample a has over 1,000 members"):
        batches(plan.items[1], plan)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["b.jpg", "b.bin"])
def test_a_member_that_claims_more_than_any_disk_holds_is_no_wait(tmp_path, name, compressed):
    header = tarfile.TarInfo(name)
    header.size = 1 << 80
    content = tar_bytes([("a.jpg", b"jpg"), ("a.txt", b"c")])[:2048] + header.tobuf(
        tarfile.GNU_FORMAT
    )
    path = tmp_path / ("a.tar.gz" if compressed else "a.tar")
    path.write_bytes(gzip.compress(content) if compressed else content)
    plan = plan_input(str(path))
    for read in (lambda item: list(read_rows(item, plan.source)), count_rows):
        with pytest.raises(ShardError, match="cut off inside"):
            read(plan.items[0])
