"""Every field of every JSON file of a folder, replaced by what nobody would write."""

import copy
import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipsieve
from clipsieve.errors import ClipsieveError
from clipsieve.formats.base import ReadOptions
from clipsieve.formats.registry import count_rows
from clipsieve.job.inputs import recorded_items
from clipsieve.job.status import status_lines
from clipsieve.neighbours.stored import NeighbourSet
from clipsieve.schemas import footers
from clipsieve.sql.connect import open_views, run_query
from clipsieve.store.fits import read_fit_description
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import InputEntry
from clipsieve.store.members import read_members
from clipsieve.store.reconcile import reconcile
from clipsieve.store.records import DONE, ShardRecord, add_record
from clipsieve.store.removal_lists import removal_lists
from clipsieve.store.removals import count_removed
from tests.sql.hostile import read_value, write_value
from tests.store.folders import make_folder, path_of, shard_of

DEEP: Any = 1
for _ in range(200):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    None,
    0,
    -1,
    1e308,
    "",
    'x" AS SELECT 1; COPY (SELECT 1) TO $$stolen$$; --',
    "../../stolen",
    "a\0b\ud800\x1b[2J",
    [],
    {},
    [[]],
    True,
    "x" * 100_000,
    10**400,
    DEEP,
)
SHARE_OF_CASES = 0.025


def places(value, way=()):
    """Yield the way to every value inside a JSON value, its own included."""
    yield way
    children: Any = enumerate(value) if isinstance(value, list) else ()
    for key, child in value.items() if isinstance(value, dict) else children:
        yield from places(child, (*way, key))


def replaced(value, way, new):
    """Return a copy of a JSON value with another one at `way`."""
    if not way:
        return new
    changed = copy.deepcopy(value)
    at = changed
    for key in way[:-1]:
        at = at[key]
    at[way[-1]] = new
    return changed


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with every kind of JSON file: fits, neighbours, a subset, a list, runs, records."""
    top = tmp_path_factory.mktemp("json")
    table = pa.table({"caption": ["a", "b"], "jpg": pa.array([b"", b""], pa.binary())})
    (top / "in").mkdir()
    pq.write_table(table, top / "in" / "a.parquet")
    folder, manifest = make_folder(top / "out", [shard_of("a", 9), shard_of("b", 8, seed=1)])
    entry = InputEntry((str(top / "in" / "*.parquet"),), dataclasses.asdict(ReadOptions()))
    folder.save_manifest(manifest.with_input(entry))
    clipsieve.score(folder.root, ["density", "density.lof", "duplicates.embedding"], device="cpu")
    clipsieve.filter(folder.root, "keep", "clip_score >= 0")
    (top / "ids.txt").write_text("a-0\na-1\n")
    clipsieve.remove(folder.root, top / "ids.txt", by="uid", name="gone")
    add_record(folder, ShardRecord("r2", "c", "/in/c", DONE, 2, {"ok": 2}))
    return Path(folder.root)


def use(root: str) -> None:
    """Read a folder as status, reconcile, sql and the stages do."""
    folder = OutputFolder.open(root)

    def accounts():
        manifest = folder.require_manifest()
        return list(reconcile(folder, manifest, recorded_items(manifest), count_rows))

    def loaders():
        for path in Path(root).glob("fits/*/*.json"):
            read_fit_description(folder, path.parent.name, path.stem)
        for path in Path(root).glob("neighbours/*/set.json"):
            NeighbourSet.load(folder, path.parent.name)
        removal_lists(folder)

    def removed():
        wide = folder.require_manifest().wide
        return count_removed(folder, "" if wide is None else wide.removals)

    def queries():
        open_views(root)[0].close()
        return run_query(root, "SELECT 1")

    for way in (
        lambda: list(status_lines(root)),
        accounts,
        loaders,
        removed,
        lambda: read_members(folder),
        queries,
    ):
        try:
            way()
        except ClipsieveError as error:
            assert "Traceback" not in str(error)


def files_of(base):
    names = [path.relative_to(base) for path in sorted(base.rglob("*.json*"))]
    return [name for name in names if name.name != "views.json"]


def test_there_is_every_kind_of_file(base):
    kinds = {name.parts[0] for name in files_of(base)}
    assert kinds == {"_runs", "dataset.json", "fits", "neighbours", "removals", "subsets"}
    assert len(files_of(base)) >= 7


def test_no_value_of_any_field_is_more_than_an_error(base, tmp_path, monkeypatch):
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    root = Path(shutil.copytree(base, tmp_path / "out"))
    random_cases = random.Random(11)
    cases = 0
    for name in files_of(base):
        text = (base / name).read_text()
        lines = text.splitlines() if name.suffix == ".jsonl" else [text]
        content = json.loads(lines[0]) if len(lines) > 1 else read_value(base / name)
        for way in places(content):
            for value in VALUES:
                if random_cases.random() > SHARE_OF_CASES:
                    continue
                changed = json.dumps(replaced(content, way, value))
                if len(lines) > 1:
                    (root / name).write_text("\n".join([changed, *lines[1:]]) + "\n")
                else:
                    write_value(root / name, json.loads(changed))
                try:
                    use(str(root))
                except Exception as error:
                    raise AssertionError(f"{name} {way} = {str(value)[:60]!r}") from error
                cases += 1
        (root / name).write_text(text)
    assert cases > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "out"]
    assert list((tmp_path / "current").iterdir()) == []


@pytest.mark.parametrize("key", [footers.STATES, footers.ROWS])
def test_no_value_in_a_footer_is_more_than_an_error(base, tmp_path, key):
    root = Path(shutil.copytree(base, tmp_path / "out"))
    for name in ("samples/a.parquet", *(p.relative_to(base) for p in base.glob("removals/*/a.*"))):
        path = root / name
        table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
        for value in (b"", b"-1", b"[]", b'{"ok": "x"}', b"\xff", b"1" * 5000, b"[" * 5000):
            kept = {k: v for k, v in metadata.items() if k != b"ARROW:schema"}
            changed = {**kept, key.encode(): value}
            pq.write_table(table.replace_schema_metadata(changed), path)
            use(str(root))


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[" * 100_000, b'{"a": 1, "a": 2}'],
)
def test_a_file_that_is_no_description_is_an_error(base, tmp_path, content):
    root = Path(shutil.copytree(base, tmp_path / "out"))
    for name in files_of(base):
        text = (root / name).read_bytes()
        (root / name).write_bytes(content + b"\n")
        use(str(root))
        (root / name).write_bytes(text)
    assert path_of(OutputFolder.open(root), "dataset.json").is_file()
