"""What a folder keeps of revisions when scores are brought up to date."""

import dataclasses

import pytest

from clipsieve.job.scoring import drop_revisions, folder_scorers
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import FamilyEntry, Manifest, ScorerEntry


def manifest_with(**revisions):
    """A manifest of families with one scorer each, by revision."""
    families = {
        family: FamilyEntry(revision, {family: ScorerEntry(revision)})
        for family, revision in revisions.items()
    }
    return Manifest(families=families)


def revision(number):
    return f"{number}0" * 4


@pytest.fixture
def folder(tmp_path):
    """Three revisions of two families, and a family that is in no manifest."""
    folder = OutputFolder.open(tmp_path)
    for family in ("clip", "density", "other"):
        for number in (1, 2, 3):
            folder.write_text(names.scores(family, revision(number), "a"), "")
    return folder


def kept(folder):
    return {
        family: [int(name[len("rev=")]) for name in folder.files.list_folders(f"scores/{family}")]
        for family in folder.files.list_folders("scores")
    }


def test_the_active_and_the_previous_revision_are_kept_and_no_other(folder):
    previous = manifest_with(clip=revision(1), density=revision(2))
    active = manifest_with(clip=revision(1), density=revision(3))
    drop_revisions(folder, active, previous)
    assert kept(folder) == {"clip": [1], "density": [2, 3], "other": [1, 2, 3]}


def test_a_family_that_is_new_has_no_previous_revision(folder):
    previous = manifest_with(clip=revision(2))
    active = manifest_with(clip=revision(3), density=revision(3))
    drop_revisions(folder, active, previous)
    assert kept(folder) == {"clip": [2, 3], "density": [3], "other": [1, 2, 3]}


def test_files_beside_the_revisions_stay(folder):
    folder.write_text("scores/clip/notes.txt", "mine")
    folder.write_text("scores/clip/mine/notes.txt", "mine")
    active = manifest_with(clip=revision(1))
    drop_revisions(folder, active, active)
    assert folder.files.list_files("scores/clip") == ["notes.txt"]
    assert folder.files.list_files("scores/clip/mine") == ["notes.txt"]


def test_scorers_of_a_family_go_with_the_one_that_is_named():
    manifest = manifest_with(clip=revision(1), density=revision(2))
    scorers = {name: ScorerEntry(revision(2)) for name in ("density", "density.lof")}
    family = FamilyEntry(revision(2), scorers)
    manifest = dataclasses.replace(manifest, families={**manifest.families, "density": family})
    assert folder_scorers(manifest, ["density.lof"]) == ("density", "density.lof")
    found = folder_scorers(manifest, ["density.isolation_forest", "clip_depicts"])
    assert found == ("density", "density.lof", "density.isolation_forest", "clip_depicts")
    assert folder_scorers(manifest, ["clip"]) == ()
