"""Each format of an export against the source and the ledger, read by other programs."""

import io
import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

import clipsieve
from clipsieve.exports.pictures import picture_extension
from clipsieve.exports.tars import json_table, sample_json, sample_table
from clipsieve.formats.registry import plan_input, read_rows
from tests.exports.rows import kept_rows
from tests.exports.subsets import make_subset
from tests.pipelines.jobs import run_job


def expected_scores(job) -> pa.Table:
    """The view `scores` of the kept rows, in ledger order."""
    query = 'SELECT * FROM scores WHERE "row" % 4 <> 2 ORDER BY shard, "row"'
    return clipsieve.connect(job.out).sql(query).to_arrow_table()


def same_rows(actual: pa.Table, expected: pa.Table) -> bool:
    return actual.select(expected.column_names).to_pylist() == expected.to_pylist()


def without_picture(rows):
    return [row for row in rows if not row["jpg"]]


def has_picture(row):
    return bool(row["jpg"]) and not row["jpg"].startswith(b"<!DOCTYPE")


def webdataset_samples(folder):
    """Samples of all tars, read by webdataset."""
    for tar in sorted(folder.glob("*.tar")):
        with open(tar, "rb") as stream:
            yield from group_by_keys(tar_file_expander([{"url": str(tar), "stream": stream}]))


def picture(sample):
    (extension,) = (name for name in sample if name[:2] != "__" and name not in ("txt", "json"))
    return sample[extension]


def test_npy_is_datacomps_file(job, tmp_path):
    result = clipsieve.export(job.out, job.subset, "npy", tmp_path / "npy")
    uids = [row["uid"] for row in kept_rows(job)]
    pairs = sorted((int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids)
    expected = io.BytesIO()
    np.save(expected, np.array(pairs, np.dtype("u8,u8")))
    assert (tmp_path / "npy" / "subset.npy").read_bytes() == expected.getvalue()
    assert (result.rows, result.files, result.left_out) == (len(uids), ("subset.npy",), 0)


def test_npy_may_be_one_file_among_others(job, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    clipsieve.export(job.out, job.subset, "npy", tmp_path / "keep.npy")
    clipsieve.export(job.out, job.subset, "npy", tmp_path / "again")
    assert (tmp_path / "keep.npy").read_bytes() == (tmp_path / "again/subset.npy").read_bytes()
    listed = sorted(path.name for path in tmp_path.iterdir())
    assert listed == ["again", "keep.npy", "keep.npy.export.json", "mine.txt"]
    with pytest.raises(clipsieve.UsageError, match=r"holds the npy export of subset most"):
        clipsieve.export(job.out, "none", "npy", tmp_path / "keep.npy")
    (tmp_path / "other.npy").write_bytes(b"mine")
    with pytest.raises(clipsieve.UsageError, match=r"other\.npy"):
        clipsieve.export(job.out, job.subset, "npy", tmp_path / "other.npy")


def test_uids_are_lines_in_the_order_of_the_ledger(job, tmp_path):
    clipsieve.export(job.out, job.subset, "uids", tmp_path / "to")
    lines = (tmp_path / "to" / "uids.txt").read_text().splitlines()
    assert lines == [row["uid"] for row in kept_rows(job)]
    clipsieve.export(job.out, job.subset, "uids", tmp_path / "keep.txt")
    assert (tmp_path / "keep.txt").read_text().splitlines() == lines
    listed = sorted(path.name for path in tmp_path.iterdir())
    assert listed == ["keep.txt", "keep.txt.export.json", "to"]


def test_parquet_has_the_columns_of_the_view(job, tmp_path):
    clipsieve.export(job.out, job.subset, "parquet", tmp_path)
    expected = expected_scores(job)
    files = sorted(tmp_path.glob("*.parquet"))
    assert [path.name for path in files] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert len({pq.read_schema(path).remove_metadata() for path in files}) == 1
    assert same_rows(pa.concat_tables(map(pq.read_table, files)), expected)
    read = (
        duckdb.connect()
        .sql(f"FROM '{tmp_path}/*.parquet' ORDER BY shard, \"row\"")
        .to_arrow_table()
    )
    assert same_rows(read, expected)


def test_parquet_with_images_has_the_bytes_of_the_source(job, tmp_path):
    result = clipsieve.export(job.out, job.subset, "parquet", tmp_path, with_images=True)
    table = pa.concat_tables(pq.read_table(path) for path in sorted(tmp_path.glob("*.parquet")))
    rows = kept_rows(job)
    images = table["image"].to_pylist()
    assert [image and image["bytes"] for image in images] == [row["jpg"] or None for row in rows]
    assert same_rows(table, expected_scores(job))
    assert without_picture(rows), "the sample has a row that was never fetched"
    (note,) = result.notes
    assert note.endswith(f": {len(without_picture(rows))}")
    metadata = json.loads(table.schema.metadata[b"huggingface"])
    assert metadata["info"]["features"]["image"] == {"_type": "Image"}
    plan = plan_input(f"{tmp_path}/*.parquet")
    assert "image column image" in plan.description


def test_parquet_with_images_is_read_by_datasets(job, tmp_path):
    datasets = pytest.importorskip("datasets")
    clipsieve.export(job.out, job.subset, "parquet", tmp_path / "to", with_images=True)
    files = sorted(map(str, (tmp_path / "to").glob("*.parquet")))
    data = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    rows = kept_rows(job)
    assert list(data["uid"]) == [row["uid"] for row in rows]
    assert data[0]["image"].size == (rows[0]["image_width"], rows[0]["image_height"])


@pytest.mark.parametrize("streaming", [False, True])
def test_tars_of_mixed_pictures_are_read_by_datasets(job, tmp_path, streaming):
    datasets = pytest.importorskip("datasets")
    clipsieve.export(job.out, job.subset, "tars", tmp_path / "to")
    metadata = {name: datasets.Value("string") for name in ("uid", "image_phash")}
    pictures = {name: datasets.Image() for name in ("jpg", "png")}
    features = datasets.Features({**pictures, "txt": datasets.Value("string"), "json": metadata})
    data = datasets.load_dataset(
        "webdataset",
        data_files=str(tmp_path / "to" / "*.tar"),
        split="train",
        features=features,
        streaming=streaming,
        cache_dir=str(tmp_path / "cache"),
    )
    rows = [row for row in kept_rows(job) if has_picture(row)]
    read = [
        (row["json"]["uid"], row["json"]["image_phash"], row["txt"])
        for row in data.select_columns(["json", "txt"])
    ]
    assert read == [
        (
            row["uid"],
            None if row["image_phash"] is None else str(row["image_phash"]),
            row["caption"] or "",
        )
        for row in rows
    ]
    assert max(int(phash or 0) for _, phash, _ in read) >= 2**63


def test_tars_of_one_kind_of_pictures_are_read_by_datasets_as_they_are(job, tmp_path):
    datasets = pytest.importorskip("datasets")
    jpegs = {
        row["uid"]
        for row in kept_rows(job)
        if row["status"] == "ok" and row["jpg"][:2] == b"\xff\xd8"
    }
    make_subset(job.out, "jpegs", lambda row: row["row"] % 4 != 2 and row["uid"] in jpegs)
    result = clipsieve.export(job.out, "jpegs", "tars", tmp_path / "to")
    data = datasets.load_dataset(
        "webdataset",
        data_files=str(tmp_path / "to" / "*.tar"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert len(data) == result.rows == len(jpegs)


def test_tars_are_img2datasets_and_webdataset_reads_them(job, tmp_path):
    result = clipsieve.export(job.out, job.subset, "tars", tmp_path, samples_per_tar=25)
    rows = kept_rows(job)
    tars = sorted(tmp_path.glob("*.tar"))
    assert [tar.name for tar in tars] == [f"{n:05d}.tar" for n in range(-(-len(rows) // 25))]
    samples = {sample["__key__"]: sample for sample in webdataset_samples(tmp_path)}
    expected = {
        f"{at // 25:05d}{at % 25:02d}": row for at, row in enumerate(rows) if has_picture(row)
    }
    assert list(samples) == list(expected)
    scores = {row["uid"]: row for row in expected_scores(job).to_pylist()}
    for key, row in expected.items():
        members = {name: part for name, part in samples[key].items() if name[:2] != "__"}
        (extension,) = members.keys() - {"txt", "json"}
        assert members[extension] == row["jpg"]
        format = Image.open(io.BytesIO(row["jpg"])).format if row["status"] == "ok" else None
        assert format in (None, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}.get(extension))
        assert members["txt"].decode() == (row["caption"] or "")
        metadata = json.loads(members["json"])
        assert metadata.pop("key") == key and metadata.pop("source_key") == row["key"]
        view = scores[row["uid"]]
        phash = view["image_phash"]  # above int64 for half of all pictures
        view = {**view, "image_phash": None if phash is None else str(phash)}
        assert metadata == {name: value for name, value in view.items() if name != "key"}
    tables = pa.concat_tables(pq.read_table(tar.with_suffix(".parquet")) for tar in tars)
    assert tables["key"].to_pylist() == list(expected)
    assert tables["uid"].to_pylist() == [row["uid"] for row in expected.values()]
    left = pq.read_table(tmp_path / "left_out.parquet").to_pylist()
    missing = [row for row in rows if not has_picture(row)]
    assert result.left_out == len(missing) == 3
    assert [(row["uid"], row["shard"], row["row"]) for row in left] == [
        (row["uid"], row["shard"], row["row"]) for row in missing
    ]
    assert [row["reason"] for row in left] == [
        "no picture bytes in the source (decode_error)",
        "no picture bytes in the source (fetch_failed)",
        "its bytes begin as no known picture format (decode_error)",
    ]
    stats = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("*_stats.json"))]
    assert sum(each["count"] for each in stats) == len(rows)
    assert sum(each["successes"] for each in stats) == result.rows == len(expected)
    assert sum(each["failed_to_download"] for each in stats) == len(missing)


def test_exported_tars_are_an_input_and_export_the_same_pictures_again(job, tmp_path):
    clipsieve.export(job.out, job.subset, "tars", tmp_path / "tars", samples_per_tar=40)
    plan = plan_input(str(tmp_path / "tars"))
    assert "img2dataset webdataset" in plan.description
    read = [
        image for item in plan.items for b in read_rows(item, plan.source) for image in b.images
    ]
    rows = kept_rows(job)
    of_tars = [rows[at : at + 40] for at in range(0, len(rows), 40)]
    in_tars = [[row["jpg"] for row in tar if has_picture(row)] for tar in of_tars]
    pictures = [each for tar in in_tars for each in tar]
    assert read == pictures
    out = tmp_path / "out"
    run_job(tmp_path, out, inputs=(str(tmp_path / "tars"),), scorers="clip")
    make_subset(out, "odd", lambda row: row["row"] % 2 == 1)
    clipsieve.export(out, "odd", "tars", tmp_path / "odd", samples_per_tar=7)
    samples = list(webdataset_samples(tmp_path / "odd"))
    assert [picture(sample) for sample in samples] == [
        each for tar in in_tars for each in tar[1::2]
    ]
    uids = [json.loads(sample["json"])["uid"] for sample in samples]
    assert set(uids) <= {row["uid"] for row in kept_rows(job)}


def test_clip_retrieval_has_aligned_vectors(job, tmp_path):
    result = clipsieve.export(job.out, job.subset, "clip-retrieval", tmp_path)
    image = np.load(tmp_path / "img_emb" / "img_emb_0.npy")
    text = np.load(tmp_path / "text_emb" / "text_emb_0.npy")
    metadata = pq.read_table(tmp_path / "metadata" / "metadata_0.parquet")
    rows = kept_rows(job)
    scored = [row for row in rows if row["clip_similarity"] is not None]
    assert metadata.column_names[:4] == ["image_path", "caption", "url", "uid"]
    assert metadata["uid"].to_pylist() == [row["uid"] for row in scored]
    assert metadata["image_path"].to_pylist() == [row["key"] for row in scored]
    assert image.dtype == text.dtype == np.float16
    assert len(image) == len(text) == result.rows == len(scored)
    wide_image, wide_text = image.astype(np.float64), text.astype(np.float64)
    assert np.allclose(np.linalg.norm(wide_image, axis=1), 1, atol=2e-3)
    cosines = (wide_image * wide_text).sum(1)
    assert np.allclose(cosines, [row["clip_similarity"] for row in scored], atol=2e-3)
    left = pq.read_table(tmp_path / "left_out.parquet")["uid"].to_pylist()
    assert left == [row["uid"] for row in rows if row["clip_similarity"] is None]
    assert result.left_out == len(left) > 0


@pytest.mark.parametrize("format", ["npy", "uids", "parquet", "tars", "clip-retrieval"])
def test_a_subset_without_rows_is_exported_as_none(job, tmp_path, format):
    result = clipsieve.export(job.out, "none", format, tmp_path)
    assert (result.rows, result.left_out) == (0, 0)
    assert json.loads((tmp_path / "export.json").read_text())["rows"] == 0
    if format == "npy":
        assert np.load(tmp_path / "subset.npy").shape == (0,)
    if format == "uids":
        assert (tmp_path / "uids.txt").read_bytes() == b""
    if format == "parquet":
        (file,) = tmp_path.glob("*.parquet")
        assert pq.read_metadata(file).num_row_groups == 0
        assert duckdb.execute(f"SELECT count(*) FROM '{tmp_path}/*.parquet'").fetchall() == [(0,)]
    if format == "tars":
        assert result.files == ()
    if format == "clip-retrieval":
        assert np.load(tmp_path / "img_emb" / "img_emb_0.npy").shape == (0, 128)


def test_numbers_have_the_digits_of_clip_retrieval():
    from clipsieve.exports.clip_retrieval import ClipRetrieval

    for parts, name in ((9, "0"), (10, "00"), (99, "00"), (100, "000")):
        format = ClipRetrieval(rows_a_file=1)
        first = format.parts({"a": parts})[0]
        assert format.files(first)[0] == f"img_emb/img_emb_{name}.npy"


def test_json_is_plain():
    sample = {"a": float("nan"), "b": [1.5, float("inf")], "c": b"\x00\xff", "d": {"e": None}}
    assert json.loads(sample_json(sample)) == {
        "a": None,
        "b": [1.5, None],
        "c": "00ff",
        "d": {"e": None},
    }


def test_uint64_is_text_by_type_wherever_it_stands():
    number = pa.array([2**64 - 1, None, 7], pa.uint64())
    columns = {
        "a": number,
        "b": pa.array([[1], None, [2**63, None]], pa.list_(pa.uint64())),
        "c": pa.StructArray.from_arrays([number, pa.array([1, 2, 3])], ["x", "y"]),
        "d": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.uint64(), 2)),
        "e": pa.array([[5], None, []], pa.large_list(pa.uint64())),
        "f": pa.array([2**63 - 1, None, -1], pa.int64()),
    }
    assert json_table(pa.table(columns)).to_pydict() == {
        "a": ["18446744073709551615", None, "7"],
        "b": [["1"], None, ["9223372036854775808", None]],
        "c": [
            {"x": "18446744073709551615", "y": 1},
            {"x": None, "y": 2},
            {"x": "7", "y": 3},
        ],
        "d": [["1", "2"], None, ["3", "4"]],
        "e": [["5"], None, []],
        "f": [2**63 - 1, None, -1],
    }


def test_samples_get_the_columns_that_readers_expect():
    columns = pa.table({"uid": ["u"], "KEY": ["k"], "image_width": [3], "image_height": [4]})
    (sample,) = sample_table(columns, ["000000000"]).to_pylist()
    assert sample == {
        "key": "000000000",
        "url": None,
        "width": 3,
        "height": 4,
        "uid": "u",
        "source_KEY": "k",
        "image_width": 3,
        "image_height": 4,
    }


@pytest.mark.parametrize(
    ("format", "extension"),
    [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"),
     ("TIFF", "tif")],
)  # fmt: skip
def test_extensions_follow_the_bytes(format, extension):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, format)
    assert picture_extension(file.getvalue()) == extension
    assert picture_extension(b"<!doctype html>") is None


def test_nothing_of_clipsieve_is_left_beside_the_files(job, tmp_path):
    clipsieve.export(job.out, job.subset, "tars", tmp_path, samples_per_tar=60)
    names = sorted(p.name for p in Path(tmp_path).iterdir())
    assert [n for n in names if not n[0].isdigit()] == ["export.json", "left_out.parquet"]
