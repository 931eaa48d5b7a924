"""Rows removed by lists of ids from a real job: at once, in later runs, and not after an undo."""

import json
import shutil
import signal
from functools import partial
from pathlib import Path

import mmh3
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.control import Control
from clipsieve.demo.shards import write_shards
from clipsieve.errors import UsageError
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.schemas.footers import SEAL
from clipsieve.store.folder import OutputFolder
from clipsieve.store.names import removals_folder, samples
from clipsieve.store.removals import match_removals, removals_id
from tests.pipelines.jobs import (
    exit_code,
    identities,
    leftovers,
    manifest_of,
    read,
    run_job,
    start,
    tables,
    wait_for,
)

#: Scores of the embed stage alone: those of others depend on which rows they are fitted to.
CLIP = {"scorers": "clip"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Shards 0 and 1 of three, the output folder of a job over them, and shard 2."""
    top = tmp_path_factory.mktemp("made")
    write_shards(top / "shards", 60, 3, seed=9)
    (top / "shards" / "00002.parquet").rename(top / "later.parquet")
    run_job(top / "shards", top / "out", **CLIP)
    return top


@pytest.fixture(scope="module")
def calm(made):
    """A copy of the output folder without the rows of `made/gone.txt`."""
    shutil.copytree(made / "out", made / "calm")
    list_of(made / "out", made)
    remove(made / "calm", made / "gone.txt")
    return made / "calm"


@pytest.fixture
def out(made, tmp_path):
    """The output folder, this test's own."""
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(map(str, lines)) + "\n", encoding="utf-8")
    return path


def remove(out, *given, **settings):
    return clipsieve.remove(out, *given, device="cpu", **settings)


def answer(out, query):
    return clipsieve.connect(out).sql(query).fetchall()


def keys(out, view="scores"):
    """Shard and row of all rows of a view, sorted."""
    return sorted(answer(out, f'SELECT shard, "row" FROM {view}'))


def ids_by_kind(rows):
    """A few ids of each kind, of rows that have them."""
    pairs = [row for row in rows if row["url"] and row["caption"]]
    return {
        "uid": [row["uid"] for row in rows[3:8]],
        "sha256": [row["sha256"].upper() for row in rows if row["sha256"]][5:9],
        "url": [row["url"] for row in pairs[::7]],
        "laion_hash": [mmh3.hash64(row["url"] + row["caption"])[0] for row in pairs[1::9]],
    }


def value(row, kind):
    if kind == "laion_hash":
        return mmh3.hash64(row["url"] + (row["caption"] or ""))[0] if row["url"] else None
    return row[kind] if kind != "sha256" or row[kind] is None else row[kind].upper()


@pytest.mark.parametrize("kind", ["uid", "sha256", "url", "laion_hash"])
def test_rows_are_removed_by_ids_of_each_kind(out, tmp_path, kind):
    rows = read(out, "samples").to_pylist()
    ids = ids_by_kind(rows)[kind]
    before, shown = identities(out), answer(out, 'FROM scores ORDER BY shard, "row"')
    expected = [row for row in rows if value(row, kind) in ids]
    result = remove(out, write(tmp_path / "gone.txt", *ids), kind if kind == "uid" else None)
    assert (result.kind, result.ids, result.matched_ids) == (kind, len(set(ids)), len(set(ids)))
    assert (result.rows, result.new_rows, result.removed) == (len(expected),) * 3
    removed = {(row["shard"], row["row"]) for row in expected}
    assert 0 < len(removed) < len(rows)
    assert keys(out) == sorted(set(keys(out, "samples")) - removed)
    assert len(keys(out, "samples")) == len(rows) == result.ledger_rows
    audit = answer(out, 'SELECT shard, "row", list, kind FROM removals')
    assert sorted(audit) == sorted((*key, "gone", kind) for key in removed)
    unchanged = {k: v for k, v in identities(out).items() if not k.startswith("removals")}
    assert unchanged == before, "the ledger, embeddings or scores were written again"
    if kind != "uid":
        return
    remove(out, undo="gone")
    assert answer(out, 'FROM scores ORDER BY shard, "row"') == shown
    assert not list((out / "removals").iterdir())


def test_rows_of_later_shards_stay_out(made, tmp_path):
    shards, out = tmp_path / "shards", tmp_path / "out"
    shutil.copytree(made / "shards", shards)
    run_job(shards, out, **CLIP)
    later = pq.read_table(made / "later.parquet").to_pylist()
    earlier = read(out, "samples").to_pylist()
    urls = [later[4]["url"], later[9]["url"], earlier[2]["url"]]
    result = remove(out, write(tmp_path / "gone.txt", *urls), reason="asked for")
    assert (result.rows, result.matched_ids) == (1, 1)
    shutil.copy(made / "later.parquet", shards / "00002.parquet")
    run_job(shards, out, **CLIP)
    assert keys(out, "removals") == [("00000", 2), ("00002", 4), ("00002", 9)]
    assert len(keys(out)) == 57 and len(keys(out, "samples")) == 60
    assert not set(keys(out)) & set(keys(out, "removals"))
    # The order in which list and shards came does not show.
    calm = tmp_path / "calm"
    run_job(shards, calm, **CLIP)
    remove(calm, tmp_path / "gone.txt")
    assert active(calm) == active(out)
    clipsieve.score(out, ["clip_depicts"], device="cpu")
    assert len(keys(out)) == 57
    remove(out, undo="gone")
    assert len(keys(out)) == 60


def active(out):
    """Bytes of the active build, and of what was removed."""
    wide = manifest_of(out).wide
    assert wide is not None
    tops = (f"wide/build={wide.build}/", "removals/")
    return {name: data for name, data in tables(out).items() if name.startswith(tops)}


def list_of(out, tmp_path, count=9):
    """A file with the urls of the first rows of a folder."""
    return write(
        tmp_path / "gone.txt", *[r["url"] for r in read(out, "samples").to_pylist()[:count]]
    )


def test_a_list_stays_until_it_is_undone(out, tmp_path, capsys):
    rows = read(out, "samples").to_pylist()
    first = write(tmp_path / "first.txt", *[row["url"] for row in rows[:3]])
    second = write(tmp_path / "second.txt", *[row["uid"] for row in rows[2:5]])
    remove(out, first, reason="asked for")
    assert remove(out, second, "uid").new_rows == 2
    listed = [path.read_bytes() for path in sorted(out.rglob("list.json"))]
    again = remove(out, first)
    assert (again.rows, again.new_rows, again.removed) == (3, 2, 5)
    assert again.lines("out")[1:3] == [
        "this list: 3 of its 3 ids name 3 of 40 rows (2 of them on no other list)",
        "all lists: 5 rows are removed from scores; samples has them still, and removals says why",
    ]
    assert remove(out, first, reason="asked for").old_reason is None
    assert [path.read_bytes() for path in sorted(out.rglob("list.json"))] == listed
    with pytest.raises(UsageError, match=r"'first' of .* has other ids, 3 of first\.txt; .*--undo"):
        remove(out, second, "uid", name="first")
    capsys.readouterr()
    assert exit_code(["remove", str(out), "--lists"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("first: 3 ids of kind url name 3 rows; first.txt, 20")
    assert lines[0].endswith("; asked for")
    assert lines[1].startswith("second: 3 ids of kind uid name 3 rows")
    assert lines[2] == "5 rows are removed"
    command = ["remove", str(out), str(first), "--reason", "by law"]
    changes = "list first is active: its reason {} 'by law', no longer 'asked for'"
    for dry, verb, reason in ((["--dry-run"], "would be", "asked for"), ([], "is now", "by law")):
        assert exit_code([*command, *dry]) == 0
        assert changes.format(verb) in capsys.readouterr().out.splitlines()
        now = json.loads((out / "removals/first/list.json").read_text())
        own = {"reason": reason, SEAL: now[SEAL]}
        assert now == {**json.loads(listed[0]), **own}
    assert exit_code(["reconcile", str(out)]) == 0
    assert exit_code(["status", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "5 of them are removed from scores, by lists" in printed
    assert "scores view: 40 rows, 5 removed by lists\n" in printed
    assert exit_code(["remove", str(out), "--undo", "first"]) == 0
    assert "3 rows are removed from scores" in capsys.readouterr().out
    assert keys(out, "removals") == [(row["shard"], row["row"]) for row in rows[2:5]]
    with pytest.raises(UsageError, match="has no removal list 'first'; it has second"):
        remove(out, undo="first")


def test_a_dry_run_counts_and_writes_nothing(out, tmp_path):
    rows = read(out, "samples").to_pylist()
    remove(out, write(tmp_path / "first.txt", *[row["url"] for row in rows[:3]]))
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name != ".lock"}
    listed = write(tmp_path / "b.txt", *[row["url"] for row in rows[2:6]], "http://none.example/")
    result = remove(out, listed, dry_run=True)
    assert (result.ids, result.matched_ids, result.rows) == (5, 4, 4)
    assert (result.new_rows, result.removed) == (3, 6)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name != ".lock"} == before
    assert remove(out, listed).removed == 6


def test_a_list_that_names_no_row_says_so_beside_the_count_of_all(out, tmp_path):
    rows = read(out, "samples").to_pylist()
    remove(out, write(tmp_path / "first.txt", *[row["url"] for row in rows[:3]]))
    result = remove(out, write(tmp_path / "none.txt", "http://none.example/"), dry_run=True)
    assert result.lines("out")[1:] == [
        "this list: 0 rows; none of its 1 ids names one of 40 rows: if they are of another kind, "
        "say it with --by",
        "all lists: 3 rows would be removed from scores; nothing was written",
    ]
    assert remove(out, tmp_path / "none.txt").lines("out")[2:] == [
        "list none is active all the same, for shards that come later",
        "all lists: 3 rows are removed from scores; samples has them still, and removals says why",
        "undo: clipsieve remove out --undo none",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["hello", "world"], "line 1: 'hello' is no uid of .*, whose uids are 32 hexadecimal"),
        (["UID", "0" * 32], "line 1: 'UID' is no uid of"),
        (["0" * 64], "line 1: '0{64}' is no uid of"),
        (["UID,reason", f"{'0' * 32},spam"], "line 1: 'UID,reason' looks like CSV"),
    ],
)
def test_uids_that_no_row_can_have_are_refused(out, tmp_path, lines, message):
    listed = write(tmp_path / "gone.txt", *lines)
    before = tables(out)
    for refused in (
        lambda: remove(out, listed, "uid"),
        lambda: clipsieve.filter(out, "keep", subtract=[str(listed)], by="uid"),
    ):
        with pytest.raises(UsageError, match=message):
            refused()
    assert tables(out) == before


def test_a_refused_list_leaves_nothing(out, tmp_path):
    folder = OutputFolder.open(out)
    table, footer = folder.read_table(samples("00001")), folder.read_footer(samples("00001"))
    folder.write_table(samples("00001"), table.drop_columns(["url"]), footer)
    before = tables(out)
    listed = write(tmp_path / "gone.txt", "http://none.example/")
    with pytest.raises(UsageError, match=r"shard 00001 of .* lacks a column url .* run again"):
        remove(out, listed)
    assert tables(out) == before
    assert not [p for p in (out / "removals").rglob("*") if p.is_file()]
    assert removals_id(folder) == ""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["gone.txt", "--lists"],
        ["--undo", "a", "--refresh"],
        ["gone.txt", "--name", "1"],
        ["--undo", "a", "--reason", "b"],
        ["none.txt"],
    ],
)
def test_wrong_commands_are_refused(out, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "gone.txt", "http://none.example/")
    before = tables(out)
    assert exit_code(["remove", str(out), *words]) == 2
    assert tables(out) == before


def test_one_and_two_workers_find_the_same(calm, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(calm, out)
    found = tables(out)
    folder = OutputFolder.open(out)
    shutil.rmtree(out / removals_folder(removals_id(folder)))
    control = Control("two", folder.root)
    match_removals(folder, BeamEngine(workers=2), control, workers_from=0)
    assert tables(out) == found


def has_file(folder, pattern):
    return any(folder.glob(pattern))


def test_a_command_killed_anywhere_and_given_again_ends_with_the_same_bytes(made, calm, out):
    words = ["remove", str(out), str(made / "gone.txt")]
    for what in ("gone/ids.parquet", "rev=*/00000.parquet", "gone/list.json"):
        with start(words) as process:
            wait_for(partial(has_file, out / "removals", what), what)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    assert exit_code(words) == 0
    assert active(out) == active(calm)
    assert leftovers(out) == []
    entries = [json.loads((o / "removals/gone/list.json").read_text()) for o in (calm, out)]
    own = ("run_id", "created_at", SEAL)
    first, second = ({k: v for k, v in each.items() if k not in own} for each in entries)
    assert first == second


@pytest.mark.parametrize("left", ["ids", "matches", "list", "switched"])
def test_every_state_between_two_writes_is_made_good(made, calm, tmp_path, left):
    out = tmp_path / "out"
    shutil.copytree(calm, out)
    identifier = removals_id(OutputFolder.open(out))
    if left == "switched":
        (out / "sql" / "views.sql").unlink()
    else:
        wide = manifest_of(out).wide
        assert wide is not None
        shutil.rmtree(out / f"wide/build={wide.build}")
        shutil.copy(made / "out" / "dataset.json", out)
    if left in ("ids", "matches"):
        (out / "removals/gone/list.json").unlink()
        (out / removals_folder(identifier) / "00001.parquet").unlink()
        assert len(keys(out)) == 40, "a list that is not active yet removes nothing"
    if left == "ids":
        shutil.rmtree(out / removals_folder(identifier))
        (out / "removals/gone/ids.parquet").write_bytes(b"half")
    remove(out, made / "gone.txt")
    assert active(out) == active(calm)
    assert keys(out) == keys(calm)


def test_an_interrupted_undo_is_resumed(made, calm, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(calm, out)
    (out / "removals/gone/list.json").unlink()
    remove(out, undo="gone")
    assert keys(out) == keys(made / "out")
    assert active(out) == active(made / "out")


def test_an_active_list_is_applied_by_the_next_command(calm, tmp_path):
    """A list whose command was killed before the switch: compact, score and run finish it."""
    out = tmp_path / "out"
    shutil.copytree(calm, out)
    removed = keys(out)
    manifest = json.loads((out / "dataset.json").read_text())
    manifest["wide"] |= {"removals": "", "removed": 0}
    (out / "dataset.json").write_text(json.dumps(manifest))
    for path in (out / "removals").glob("rev=*/*"):
        path.unlink()
    assert exit_code(["compact", str(out)]) == 0
    assert keys(out) == removed
    for path in (out / "removals").glob("rev=*/*"):
        path.unlink()
    assert exit_code(["remove", str(out), "--refresh"]) == 0
    assert keys(out) == removed and len(keys(out, "removals")) == 9
