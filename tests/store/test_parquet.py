"""Parquet as written: types, encodings, NULLs and footers, as pyarrow and DuckDB see them."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.embed.commit import states_from_footer
from clipsieve.schemas import footers
from clipsieve.schemas.tables import embeddings_schema
from clipsieve.store.folder import OutputFolder
from clipsieve.store.parquet import nullable, vectors, write_parquet
from tests.store.folders import paths_of, shard_of, shard_writer

FOOTER = {footers.FAMILY: "clip", footers.ROWS: "3", footers.SOURCE_URI: "/grün/'a'.parquet"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of one shard, by family; row 1 has no image, row 2 no caption."""
    writer = shard_writer(tmp_path_factory.mktemp("out"))
    writer.commit(shard_of("s", 5, no_image=[1], no_text=[2]))
    return paths_of(writer, "s")


def duck(path, what="*", more=""):
    # Without this a family's folder, rev=..., would be one more column.
    source = f"read_parquet('{path}', hive_partitioning = false)"
    return duckdb.connect().sql(f"SELECT {what} FROM {source} {more}")


def test_footer_is_read_back_by_pyarrow_and_by_duckdb(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, pa.table({"x": [1, 2, 3]}), FOOTER)
    assert OutputFolder.open(tmp_path).read_footer("a.parquet") == FOOTER
    rows = duckdb.connect().sql(
        f"SELECT decode(key), decode(value) FROM parquet_kv_metadata('{path}')"
    )
    assert FOOTER.items() <= dict(rows.fetchall()).items()


def test_footer_of_a_missing_file_is_empty(tmp_path):
    folder = OutputFolder.open(tmp_path)
    assert folder.read_footer("none.parquet") == folder.read_footer("no/folder.parquet") == {}


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "garbled", "length"])
def test_footer_of_a_damaged_file_is_empty(tmp_path, damage):
    path = tmp_path / "a.parquet"
    write_parquet(path, pa.table({"x": list(range(1000))}), FOOTER)
    raw = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut": raw[:-50],
        "other": b"not a Parquet file at all",
        "garbled": raw[:-60] + bytes(range(200, 252)) + raw[-8:],
        "length": raw[:-8] + b"\xff\xff\xff\x7f" + raw[-4:],
    }
    path.write_bytes(damaged[damage])
    assert OutputFolder.open(tmp_path).read_footer("a.parquet") == {}


def test_a_footer_that_may_not_be_read_is_not_taken_for_damage(tmp_path):
    loop = tmp_path / "loop.parquet"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        OutputFolder.open(tmp_path).read_footer("loop.parquet")


def test_types_of_every_family_in_duckdb(files):
    def types(family):
        relation = duck(files[family])
        return dict(zip(relation.columns, map(str, relation.types), strict=True))

    assert types("clip") == {
        "uid": "VARCHAR",
        "clip_similarity": "FLOAT",
        "clip_score": "FLOAT",
    }
    assert types("embeddings") == {
        "uid": "VARCHAR",
        "image_embedding": "FLOAT[]",
        "image_norm": "FLOAT",
        "text_embedding": "FLOAT[]",
        "text_norm": "FLOAT",
    }
    assert types("samples") == {
        "uid": "VARCHAR",
        "shard": "VARCHAR",
        "row": "BIGINT",
        "caption": "VARCHAR",
        "status": "VARCHAR",
        "error": "VARCHAR",
        "image_width": "INTEGER",
        "image_height": "INTEGER",
        "image_sha256": "VARCHAR",
        "image_phash": "UBIGINT",
        "n": "BIGINT",
    }


def test_missing_vectors_are_null_to_pyarrow_and_duckdb(files):
    table = pq.read_table(files["embeddings"])
    assert table.schema.remove_metadata() == embeddings_schema(pa.string())
    for side, missing in (("image", 1), ("text", 2)):
        there = [row != missing for row in range(5)]
        assert table[f"{side}_embedding"].is_valid().to_pylist() == there
        assert table[f"{side}_norm"].is_valid().to_pylist() == there
        seen = duck(files["embeddings"], f"{side}_embedding IS NOT NULL, len({side}_embedding)")
        assert seen.fetchall() == [(t, 8 if t else None) for t in there]


def test_stored_vectors_and_norms_give_the_features_back(files):
    shard = shard_of("s", 5, no_image=[1], no_text=[2])
    table = pq.read_table(files["embeddings"]).filter(pa.compute.field("image_norm").is_valid())
    unit = np.stack(table["image_embedding"].to_pylist()).astype(np.float64)
    restored = unit * table["image_norm"].to_numpy()[:, None]
    original = shard.pairs.image.vectors[shard.pairs.image.valid]
    assert np.allclose(restored, original, atol=2e-3)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-3)


def test_cosine_in_duckdb_is_the_stored_score(files):
    both = f"read_parquet('{files['embeddings']}') e JOIN read_parquet('{files['clip']}') c"
    rows = duckdb.connect().sql(
        "SELECT array_inner_product(image_embedding::FLOAT[8], text_embedding::FLOAT[8]), "
        "clip_similarity "
        f"FROM {both} USING (uid) WHERE clip_similarity IS NOT NULL"
    )
    found = np.array(rows.fetchall())
    assert len(found) == 3
    assert np.abs(found[:, 0] - found[:, 1]).max() < 2e-3


def test_nan_and_infinity_become_null(tmp_path):
    values = np.array([1.5, np.nan, np.inf, -np.inf, 0.0, 1e39])
    assert nullable(values[:5]).to_pylist() == [1.5, None, None, None, 0.0]
    path = tmp_path / "a.parquet"
    write_parquet(path, pa.table({"x": nullable(values[:5])}), {})
    assert duck(path, "count(*), count(x), max(x)").fetchall() == [(5, 2, 1.5)]
    # NaN is the greatest value to DuckDB: it would pass any threshold.
    assert duck(path, "count(*)", "WHERE x >= 0.5").fetchall() == [(1,)]


def test_scores_of_undefined_rows_are_null(files):
    scores = duck(files["clip"], "clip_similarity IS NULL, clip_score IS NULL").fetchall()
    assert scores == [(row in (1, 2),) * 2 for row in range(5)]


def test_encodings_are_those_that_are_small_and_readable(files):
    def encodings(family):
        group = pq.read_metadata(files[family]).row_group(0)
        columns = [group.column(n) for n in range(group.num_columns)]
        assert {column.compression for column in columns} == {"ZSTD"}
        return {column.path_in_schema.split(".")[0]: set(column.encodings) for column in columns}

    assert encodings("clip")["clip_score"] == {"BYTE_STREAM_SPLIT", "RLE"}
    vector = encodings("embeddings")
    assert vector["image_norm"] == {"BYTE_STREAM_SPLIT", "RLE"}
    # DuckDB cannot read float16 in BYTE_STREAM_SPLIT.
    assert vector["image_embedding"] == {"PLAIN", "RLE"}
    samples = encodings("samples")
    dictionaries = {name for name, used in samples.items() if "RLE_DICTIONARY" in used}
    assert dictionaries == {"shard", "status", "error"}


def test_row_groups_are_small_where_there_are_vectors(tmp_path):
    rows = 25_000
    column = vectors(np.ones((rows, 2)), np.ones(rows, bool))
    write_parquet(tmp_path / "v.parquet", pa.table({"v": column}), {})
    assert pq.read_metadata(tmp_path / "v.parquet").num_row_groups == 3
    write_parquet(tmp_path / "x.parquet", pa.table({"x": np.zeros(200_000, np.float32)}), {})
    assert pq.read_metadata(tmp_path / "x.parquet").num_row_groups == 2


@pytest.mark.parametrize("valid", [[], [True] * 3, [False] * 3, [False, True, False, False, True]])
def test_vectors_are_null_exactly_where_not_valid(tmp_path, valid):
    unit = np.arange(len(valid) * 4, dtype=np.float64).reshape(-1, 4)
    column = vectors(unit, np.array(valid, bool))
    column.validate(full=True)
    wanted = [row.tolist() if there else None for row, there in zip(unit, valid, strict=True)]
    assert column.to_pylist() == wanted
    path = tmp_path / "v.parquet"
    write_parquet(path, pa.table({"v": column}), {})
    assert pq.read_table(path)["v"].to_pylist() == wanted
    assert duck(path, "v").fetchall() == [(row,) for row in wanted]


@pytest.mark.parametrize("uids", [pa.array([3, None, 1]), pa.array(["a", None, "c"])])
def test_uids_keep_the_type_of_the_source(tmp_path, uids):
    writer = shard_writer(tmp_path)
    writer.commit(shard_of("s", 3, uids=uids))
    for path in paths_of(writer, "s").values():
        assert pq.read_table(path)["uid"].combine_chunks().equals(uids)
        assert duck(path, "uid").fetchall() == [(uid,) for uid in uids.to_pylist()]


def test_a_shard_without_rows_is_readable(tmp_path):
    writer = shard_writer(tmp_path)
    writer.commit(shard_of("s", 0, uids=pa.array([], pa.string())))
    for path in paths_of(writer, "s").values():
        assert pq.read_table(path).num_rows == 0
        assert duck(path, "count(*)").fetchall() == [(0,)]
    (ledger,) = writer.done([shard_of("s", 0, uids=pa.array([], pa.string())).item])
    assert ledger is not None
    assert states_from_footer(ledger) == {}


def test_duckdb_finds_the_nulls_of_a_text_of_one_value(tmp_path):
    # DuckDB 2.0.0 does not where such a column has statistics and no dictionary.
    table = pa.table({"caption": ["same", None, "same"], "status": ["ok", None, "ok"]})
    write_parquet(tmp_path / "t.parquet", table, {})
    connection = duckdb.connect()
    for column in table.column_names:
        query = f"SELECT count(*) FROM '{tmp_path}/t.parquet' WHERE {column} IS NULL"
        assert connection.sql(query).fetchall() == [(1,)]
