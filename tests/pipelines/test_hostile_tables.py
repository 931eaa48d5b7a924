"""Tables and arrays that no clipsieve wrote: one line that names the file, from every command."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.errors import ClipsieveError, LedgerError
from clipsieve.formats.base import InputFormat, SourceFingerprint, WorkItem
from clipsieve.job.status import status_lines
from clipsieve.sql.connect import open_views
from clipsieve.store.folder import OutputFolder
from clipsieve.store.reconcile import reconcile
from tests.store.folders import make_folder, shard_of

SAMPLES, CLIP = "samples/a.parquet", "scores/clip/*/a.parquet"
EMBEDDINGS, FIT = "embeddings/*/*/a.parquet", "fits/density/*.npz"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with density scores, and a source of every shard."""
    folder, _ = make_folder(tmp_path_factory.mktemp("tables") / "out", [shard_of("a", 9)])
    clipsieve.score(folder.root, ["density"], device="cpu")
    return Path(folder.root)


@pytest.fixture
def out(base, tmp_path):
    return Path(shutil.copytree(base, tmp_path / "out"))


def rewrite(path, change):
    """Write a table again as `change` makes it; the footer stays."""
    table, footer = pq.read_table(path), pq.read_metadata(path).metadata
    kept = {key: value for key, value in footer.items() if key != b"ARROW:schema"}
    pq.write_table(change(table).replace_schema_metadata(kept), path)


def cast(column, type):
    def change(table):
        at = table.schema.get_field_index(column)
        if pa.types.is_nested(type):
            return table.set_column(at, column, pa.array([[1]] * len(table), type))
        return table.set_column(at, column, pa.array([1] * len(table)).cast(type))

    return change


def without(*columns):
    return lambda table: table.drop_columns(list(columns))


def wider(table):
    vectors = pa.array([[0.5] * 12] * len(table), pa.list_(pa.float16()))
    return table.set_column(1, "image_embedding", vectors)


def ragged(table):
    vectors = [[0.5] * (7 + 2 * (row % 2)) for row in range(len(table) - 1)] + [[0.5] * 8]
    return table.set_column(1, "image_embedding", pa.array(vectors, pa.list_(pa.float16())))


def norms_missing(table):
    return table.set_column(2, "image_norm", pa.nulls(len(table), pa.float32()))


def doubled(table):
    return pa.Table.from_arrays([*table.columns, table["uid"]], [*table.column_names, "uid"])


#: A table, and what becomes of it.
TABLES = {
    "uids of lists": (SAMPLES, cast("uid", pa.list_(pa.int64()))),
    "uids of numbers": (SAMPLES, cast("uid", pa.int64())),
    "states of numbers": (SAMPLES, cast("status", pa.int64())),
    "rows of texts": (SAMPLES, cast("row", pa.string())),
    "shards of lists": (SAMPLES, cast("shard", pa.list_(pa.int64()))),
    "captions of numbers": (SAMPLES, cast("caption", pa.int64())),
    "no states": (SAMPLES, without("status")),
    "no rows": (SAMPLES, without("row", "error")),
    "two uids": (SAMPLES, doubled),
    "nothing but uids": (SAMPLES, lambda table: table.select(["uid"])),
    "fewer rows": (SAMPLES, lambda table: table.slice(3)),
    "no row": (SAMPLES, lambda table: table.slice(0, 0)),
    "vectors of texts": (EMBEDDINGS, cast("image_embedding", pa.string())),
    "wider vectors": (EMBEDDINGS, wider),
    "ragged vectors": (EMBEDDINGS, ragged),
    "no norms": (EMBEDDINGS, norms_missing),
    "no captions' vectors": (EMBEDDINGS, without("text_embedding")),
    "fewer vectors": (EMBEDDINGS, lambda table: table.slice(2)),
    "scores of texts": (CLIP, cast("clip_score", pa.string())),
    "scores of lists": (CLIP, cast("clip_score", pa.list_(pa.int64()))),
    "no uids": (CLIP, without("uid")),
    "fewer scores": (CLIP, lambda table: table.slice(1)),
}


def commands(root):
    """Run what reads a folder; return the errors."""
    folder = OutputFolder.open(root)
    item = WorkItem("a", "/in/a", InputFormat.PARQUET, 0, None, SourceFingerprint(900, "1", 9))

    def accounts():
        return list(reconcile(folder, folder.require_manifest(), [item], lambda _: 9))

    def views():
        with open_views(root)[0] as connection:
            connection.sql("SELECT 1").fetchall()

    ways = (
        lambda: list(status_lines(root)),
        accounts,
        views,
        lambda: clipsieve.filter(root, "keep", "clip_score > 0", replace=True),
        lambda: clipsieve.score(root, ["density"], device="cpu", refit=True),
    )
    errors = []
    for way in ways:
        try:
            way()
        except ClipsieveError as error:
            errors.append(error)
    return errors


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_of_another_kind_is_never_a_traceback(out, kind):
    pattern, change = TABLES[kind]
    (path,) = out.glob(pattern)
    rewrite(path, change)
    for error in commands(str(out)):
        assert len(str(error)) < 2000 and "Traceback" not in str(error)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("uids of lists", "column 'uid' is 'list"),
        ("states of numbers", "column 'status' is 'int64', not string"),
        ("no states", "column 'status' is missing"),
        ("two uids", "two columns are named 'uid'"),
    ],
)
def test_a_column_of_another_type_is_named(out, kind, words):
    _, change = TABLES[kind]
    rewrite(out / SAMPLES, change)
    with pytest.raises(LedgerError, match=f"samples/a.parquet is missing or damaged .*{words}"):
        OutputFolder.open(out).read_table(SAMPLES)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wider vectors", "image vectors have 12 to 12 components, not 8"),
        ("ragged vectors", "image vectors have 7 to 9 components, not 8"),
        ("no norms", "9 image vectors have 0 norms"),
    ],
)
def test_vectors_of_another_length_are_told(out, kind, words):
    _, change = TABLES[kind]
    (path,) = out.glob(EMBEDDINGS)
    rewrite(path, change)
    with pytest.raises(LedgerError, match=words):
        clipsieve.score(out, ["density"], device="cpu", refit=True)


def other_names(arrays):
    return {f"x{name}": array for name, array in arrays.items()}


def texts(arrays):
    return {name: np.full(array.shape, "x") for name, array in arrays.items()}


def flat(arrays):
    return {name: array.ravel()[:1] for name, array in arrays.items()}


def another_width(arrays):
    return {name: array[..., :3] if array.ndim > 1 else array for name, array in arrays.items()}


@pytest.mark.parametrize("change", [other_names, texts, flat, another_width, lambda _: {}])
def test_arrays_of_another_fit_are_told_with_the_cure(out, change):
    (path,) = out.glob(FIT)
    folder, name = OutputFolder.open(out), str(path.relative_to(out))
    folder.write_arrays(name, change(folder.read_arrays(name)))
    for scores in out.glob("scores/density/*/a.parquet"):
        scores.unlink()
    with pytest.raises(LedgerError, match=rf"cannot use .*{path.name} .*--scorers density --refit"):
        clipsieve.score(out, ["density"], device="cpu")
    assert dataclasses.is_dataclass(clipsieve.score(out, ["density"], device="cpu", refit=True))
    with open_views(out)[0] as connection:
        assert connection.sql("SELECT count(density_kdist) > 0 FROM scores").fetchall() == [(True,)]
    assert pc.all(pq.read_table(out / SAMPLES)["uid"].is_valid()).as_py()
