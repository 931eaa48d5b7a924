"""Names of carried columns, checked with the engine that compares them without case."""

import dataclasses
import json

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.formats.base import ReadOptions
from clipsieve.formats.columns import RESERVED, carried_columns, reference_captions
from clipsieve.formats.registry import plan_input
from clipsieve.schemas.tables import LEDGER, samples_schema
from tests.formats.files import all_rows, sample, write_parquet, write_tar

OPTIONS = ReadOptions(caption_col="c", uid_col="id")


def write_source(path, kind, columns):
    """One row of text columns as a source of this kind."""
    fields = {"c": "a cat", "id": "u", **columns}
    if kind == "parquet":
        arrays = [pa.array([b"x"]), *(pa.array([value]) for value in fields.values())]
        write_parquet(path / "0.parquet", pa.Table.from_arrays(arrays, names=["jpg", *fields]))
    elif kind == "tar":
        write_tar(path / "0.tar", sample("k", jpg=b"x", json=fields))
    else:
        path.mkdir()
        (path / "k.jpg").write_bytes(b"x")
        (path / "k.json").write_text(json.dumps(fields))


def ledger_names(path, carried):
    """Columns of a ledger with these carried columns, as DuckDB shows them."""
    schema = samples_schema(pa.string(), carried)
    pq.write_table(schema.empty_table(), path)
    return [row[0] for row in duckdb.execute(f"DESCRIBE SELECT * FROM '{path}'").fetchall()]


@pytest.mark.parametrize("kind", ["parquet", "tar", "folder"])
@pytest.mark.parametrize("change", [str.lower, str.upper, str.capitalize])
def test_names_of_the_ledger_in_any_case_are_carried_as_source_name(tmp_path, kind, change):
    columns = {change(name): f"value of {name}" for name in LEDGER.names}
    write_source(tmp_path / "in", kind, columns)
    plan = plan_input(str(tmp_path / "in"), OPTIONS)
    (row,) = all_rows(plan)
    for name, value in columns.items():
        assert row[f"source_{name}"] == value
    expected = [*LEDGER.names, *plan.source.carried.names]
    assert ledger_names(tmp_path / "ledger.parquet", plan.source.carried) == expected


@pytest.mark.parametrize("kind", ["parquet", "tar", "folder"])
def test_columns_that_differ_in_case_alone_are_both_readable(tmp_path, kind):
    columns = {name: name for name in ("url", "URL", "Url", "URL_2", "status", "Status", "STATUS")}
    write_source(tmp_path / "in", kind, columns)
    plan = plan_input(str(tmp_path / "in"), OPTIONS)
    (row,) = all_rows(plan)
    names = {
        "url": "url",
        "URL": "URL_2",
        "Url": "Url_3",
        "URL_2": "URL_2_2",
        "status": "source_status",
        "Status": "source_Status_2",
        "STATUS": "source_STATUS_3",
    }
    assert {column: row[name] for column, name in names.items()} == columns
    assert "Status as source_Status_2" in plan.description
    expected = [*LEDGER.names, *plan.source.carried.names]
    assert ledger_names(tmp_path / "ledger.parquet", plan.source.carried) == expected


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        (None, []),
        ("a cat", ["a cat"]),
        (["a", None, "b"], ["a", "b"]),
        ([], []),
        ([b"caf\xe9", b"b"], ["caf\ufffd", "b"]),
        ('["r", null, "s"]', ["r", "s"]),
        ("[]", []),
        ("[1] see below", ["[1] see below"]),
        ("[1, 2]", ["[1, 2]"]),
        ("[" * 100_000, ["[" * 100_000]),
    ],
)
def test_reference_captions_of_a_carried_value(value, captions):
    assert reference_captions(value) == captions


@pytest.mark.parametrize("kind", ["parquet", "tar", "folder"])
def test_reference_captions_survive_the_ledger(tmp_path, kind):
    for references in (["one", None, "two"], "one"):
        path = tmp_path / type(references).__name__
        write_source(path, kind, {"refs": references})
        plan = plan_input(str(path), dataclasses.replace(OPTIONS, references_col="refs"))
        (row,) = all_rows(plan)
        expected = ["one", "two"] if isinstance(references, list) else ["one"]
        assert reference_captions(row["refs"]) == expected


def test_every_column_of_the_ledger_is_reserved():
    assert set(LEDGER.names) <= RESERVED
    carried = carried_columns([("Rev", "Rev", pa.string()), ("FILENAME", "FILENAME", pa.int8())])
    assert carried.schema.names == ["source_Rev", "source_FILENAME"]
    assert carried.origins == ("Rev", "FILENAME")
