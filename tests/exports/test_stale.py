"""An export says that its subset was made before the folder changed."""

import json
import shutil
from dataclasses import replace

import pytest

import clipsieve
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.members import members_key, read_members
from clipsieve.store.subsets import Subset, require_subset
from tests.pipelines.jobs import exit_code, run_job, write_one


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Folder with sources of two shards, and the output of one, of which `keep` was made."""
    home = tmp_path_factory.mktemp("stale")
    write_one(home / "source", "00000", 8, seed=1)
    run_job(home / "source", home / "out", scorers="clip")
    clipsieve.filter(home / "out", name="keep", where="clip_score >= 0")
    return home


@pytest.fixture
def home(template, tmp_path):
    return shutil.copytree(template, tmp_path / "home")


def change(out, **fields) -> Subset:
    """Write the description of `keep` with other fields."""
    folder = OutputFolder.open(out)
    subset = replace(require_subset(folder, "keep"), **fields)
    folder.write_json(names.subset_manifest("keep"), subset.to_json())
    return subset


def notes(home, to="to") -> list[str]:
    result = clipsieve.export(home / "out", "keep", "uids", home / to)
    manifest = json.loads((home / to / "export.json").read_text())
    assert manifest["notes"] == list(result.notes)
    return manifest["notes"]


def test_a_new_subset_has_no_note_and_one_that_is_behind_says_what_came_after(template, capsys):
    out, source = template / "out", template / "source"
    assert notes(template) == []
    write_one(source, "00001", 8, seed=2)
    run_job(source, out, scorers="clip")
    (note,) = notes(template, "behind")
    assert note == (
        f"subset keep was made before 1 shard was added; `clipsieve filter {out} --name keep ...` "
        "again brings it up to date"
    )
    # The finished export says it too, and stays as it was.
    before = (template / "to" / "export.json").read_bytes()
    assert clipsieve.export(out, "keep", "uids", template / "to").notes == (note,)
    assert (template / "to" / "export.json").read_bytes() == before
    words = ["export", str(out), "keep", "--format", "uids", "--to", str(template / "line")]
    assert exit_code(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == note
    clipsieve.filter(out, name="keep", where="clip_score >= 0")
    assert notes(template, "again") == []


def test_shards_that_changed_or_went(home):
    change(home / "out", members="0" * 8)
    (note,) = notes(home, "changed")
    assert " was made before shards changed; " in note
    shards = (*require_subset(OutputFolder.open(home / "out"), "keep").shards, "x", "y")
    change(home / "out", members="0" * 8, shards=shards)
    (note,) = notes(home, "gone")
    assert " was made before 2 shards were taken away; " in note


def test_families_that_were_scored_anew(home):
    folder = OutputFolder.open(home / "out")
    members = read_members(folder)
    families = {**folder.require_manifest().revisions(), "density": "0" * 8}
    current = {"members": members_key(members), "shards": tuple(m.shard for m in members)}
    change(home / "out", **current, families=families)
    (note,) = notes(home, "density")
    assert " was made before density was scored anew; " in note
    change(home / "out", **current, families={**families, "clip": "1" * 8})
    (note,) = notes(home, "both")
    assert " before clip was scored anew and before density was scored anew; " in note
