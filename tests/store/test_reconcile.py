"""Every way in which rows may not add up is told."""

import dataclasses

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from clipsieve.errors import ShardError
from clipsieve.store.reconcile import reconcile
from tests.store.folders import manifest_of, paths_of, shard_of, shard_writer


@pytest.fixture
def folder(tmp_path):
    writer = shard_writer(tmp_path)
    shards = [shard_of("a", 4, no_image=[2]), shard_of("b", 3)]
    for shard in shards:
        writer.commit(shard)
    return writer, [shard.item for shard in shards]


def accounts(folder, count=lambda item: item.fingerprint.rows, items=None):
    writer, planned = folder
    found = reconcile(
        writer.folder, manifest_of(writer), planned if items is None else items, count
    )
    return {account.shard: account for account in found}


def change(writer, family, make):
    """Replace one file of shard `a`; its footer stays."""
    name, folder = writer.names("a")[family], writer.folder
    folder.write_table(name, make(folder.read_table(name)), folder.read_footer(name))


def with_column(table, name, values):
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.chunked_array([pa.array(values, table[name].type)]))


def test_folder_that_adds_up_has_no_problems(folder):
    found = accounts(folder)
    assert [account.problems for account in found.values()] == [(), ()]
    assert found["a"].states == {"ok": 3, "missing_image": 1}
    assert (found["a"].source_rows, found["a"].ledger_rows) == (4, 4)


def test_other_number_of_source_rows(folder):
    found = accounts(folder, count=lambda item: 4)
    assert found["a"].problems == ()
    assert found["b"].problems == ("source has 4 rows, ledger has 3",)


def test_source_that_cannot_be_counted(folder):
    def count(item):
        raise ShardError("cannot read it")

    assert accounts(folder, count)["a"].problems == ("source cannot be counted: cannot read it",)


def test_shard_that_is_not_done(folder):
    writer, _ = folder
    paths_of(writer, "a")["samples"].unlink()
    account = accounts(folder)["a"]
    assert account.problems == ("not in the ledger: this shard is not done",)
    assert account.ledger_rows is None


@pytest.mark.parametrize("family", ["samples", "clip", "embeddings"])
@pytest.mark.parametrize("damage", ["empty", "cut", "garbled", "pages"])
def test_damaged_file(folder, family, damage):
    path = paths_of(folder[0], "a")[family]
    raw = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut": raw[:-20],
        "garbled": raw[:-60] + bytes(range(200, 252)) + raw[-8:],
        "pages": raw[:4] + b"\xff" * 120 + raw[124:],
    }
    path.write_bytes(damaged[damage])
    (problem,) = accounts(folder)["a"].problems
    assert "damaged" in problem


def test_missing_family(folder):
    paths_of(folder[0], "a")["clip"].unlink()
    problem = "clip: FileNotFoundError: a.parquet is missing or damaged"
    assert accounts(folder)["a"].problems == (problem,)


def test_family_with_other_uids(folder):
    change(folder[0], "embeddings", lambda table: table.take([1, 0, 2, 3]))
    assert accounts(folder)["a"].problems == ("embeddings: uids differ from the ledger's",)


def test_rows_out_of_order_or_doubled(folder):
    change(folder[0], "samples", lambda table: with_column(table, "row", [0, 1, 1, 3]))
    assert accounts(folder)["a"].problems == ("rows are not 0 to 3, each once",)


def test_rows_of_another_shard(folder):
    change(folder[0], "samples", lambda table: with_column(table, "shard", ["a", "b", "a", "a"]))
    assert accounts(folder)["a"].problems == ("rows name other shards: ['a', 'b']",)


def test_unknown_state(folder):
    change(
        folder[0],
        "samples",
        lambda table: with_column(table, "status", ["ok", "ok", "strange", "ok"]),
    )
    assert accounts(folder)["a"].problems == ("unknown states ['strange']",)


@pytest.mark.parametrize("errors", [["why", None, "why", None], [None, None, None, None]])
def test_error_without_failure_or_failure_without_error(folder, errors):
    change(folder[0], "samples", lambda table: with_column(table, "error", errors))
    problem = "a row is ok and has an error, or is not ok and has none"
    assert accounts(folder)["a"].problems == (problem,)


def test_row_without_a_state(folder):
    change(
        folder[0], "samples", lambda table: with_column(table, "status", ["ok", "ok", None, "ok"])
    )
    assert accounts(folder)["a"].problems == ("unknown states ['None']",)


def test_ledger_of_a_source_that_is_gone(folder):
    account = accounts(folder, items=folder[1][:1])["b"]
    assert account.problems == ("in the ledger, but its source is no longer among the inputs",)
    assert (account.uri, account.source_rows, account.ledger_rows) == ("/in/b.parquet", None, 3)


def test_several_problems_are_all_told(folder):
    paths_of(folder[0], "a")["clip"].unlink()
    change(folder[0], "samples", lambda table: table.filter(pc.not_equal(table["row"], 1)))
    problems = accounts(folder)["a"].problems
    assert len(problems) == 4
    assert problems[0] == "source has 4 rows, ledger has 3"


def test_two_sources_with_one_output_name(folder):
    writer, (first, _) = folder
    other = dataclasses.replace(first, uri="/other/a.parquet")
    found = list(reconcile(writer.folder, manifest_of(writer), [first, other], lambda item: 4))
    assert found[0].problems == ()
    assert found[1].problems == ("its output has the name of another source's, /in/a.parquet",)
    assert found[1].states == {}


def test_source_that_has_changed(folder):
    changed = shard_of("a", 4, no_image=[2], version="2").item
    account = accounts(folder, items=[changed, folder[1][1]])["a"]
    problem = "source has changed since it was read: run `clipsieve run` again"
    assert account.problems == (problem,)
