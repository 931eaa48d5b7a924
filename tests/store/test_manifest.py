"""dataset.json: written and read back, or refused."""

import dataclasses
import json

import pytest

from clipsieve.errors import UsageError
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import (
    EmbeddingsEntry,
    FamilyEntry,
    InputEntry,
    Manifest,
    ScorerEntry,
    WideEntry,
)
from tests.store.folders import MODEL

DENSITY = ScorerEntry(
    revision="0c" * 4,
    options={"k": 5},
    learned="0d" * 4,
    basis="0e" * 4,
    neighbours={"0f" * 4: "1a" * 4},
)
FULL = Manifest(
    inputs=(InputEntry(("/in/*.parquet",), {"uid_col": None}),),
    model=MODEL,
    embeddings=EmbeddingsEntry("tiny", "0a" * 4),
    families={
        "clip": FamilyEntry("0b" * 4, {"clip": ScorerEntry("0b" * 4)}),
        "density": FamilyEntry(
            "1b" * 4, {"density": DENSITY, "density.lof": ScorerEntry("2b" * 4)}
        ),
    },
    wide=WideEntry("1c" * 4, 7),
)


@pytest.fixture
def folder(tmp_path):
    return OutputFolder.open(tmp_path)


def changed(path, value):
    """The full manifest as JSON, with another value at `path`, or without it if None."""
    content = json.loads(json.dumps(FULL.to_json()))
    *way, last = path.split("/")
    at = content
    for key in way:
        at = at[int(key) if isinstance(at, list) else key]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return content


@pytest.mark.parametrize("manifest", [Manifest(), FULL])
def test_saved_manifest_is_loaded_again(folder, manifest):
    folder.save_manifest(manifest)
    assert folder.load_manifest() == folder.require_manifest() == manifest


def test_an_input_is_listed_once():
    entry = InputEntry(("/b",), {})
    assert FULL.with_input(entry).with_input(entry).inputs == (*FULL.inputs, entry)
    assert FULL.with_input(FULL.inputs[0]) is FULL


def test_revisions_and_scorers_are_those_of_all_families():
    assert FULL.revisions() == {"clip": "0b" * 4, "density": "1b" * 4}
    assert list(FULL.scorers()) == ["clip", "density", "density.lof"]
    assert FULL.scorers()["density"] is DENSITY


def test_folder_without_manifest_is_empty_and_cannot_be_required(tmp_path):
    folder = OutputFolder.open(tmp_path / "none")
    assert folder.load_manifest() is None
    with pytest.raises(UsageError, match=r"none holds no clipsieve dataset .*give the OUT folder"):
        folder.require_manifest()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"text"', b"{}", b"\xff\xfe{}"])
def test_damaged_manifest_is_refused_with_its_path_and_the_cure(tmp_path, folder, content):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(
        UsageError, match=r"dataset\.json is damaged: .*; repeat the `clipsieve run`"
    ):
        folder.load_manifest()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"layout_version": "3"},
        {"layout_version": "3", "inputs": [], "surplus": 1},
        {"layout_version": "one", "inputs": []},
        {"layout_version": 1, "inputs": []},
    ],
)
def test_sealed_manifest_of_another_form_is_refused_with_its_path(folder, content):
    folder.write_json("dataset.json", content)
    with pytest.raises(UsageError, match=r"dataset\.json is not a clipsieve dataset file"):
        folder.load_manifest()


@pytest.mark.parametrize(
    "path",
    [
        "inputs",
        "inputs/0/options",
        "model",
        "model/dim",
        "embeddings/revision",
        "families/clip/scorers",
        "families/clip/scorers/clip/revision",
        "wide/rows",
    ],
)
def test_a_missing_field_is_refused(path):
    with pytest.raises(UsageError, match="is not a clipsieve dataset file"):
        Manifest.from_json(changed(path, None), "dataset.json")


@pytest.mark.parametrize(
    "place", ["", "inputs/0/", "model/", "embeddings/", "families/clip/", "wide/"]
)
def test_a_field_that_saving_would_lose_is_refused(place):
    with pytest.raises(UsageError, match="surplus"):
        Manifest.from_json(changed(f"{place}surplus", 1), "dataset.json")


@pytest.mark.parametrize("version", ["4", "4.0", "10.1"])
def test_newer_major_version_is_refused(version):
    content = changed("layout_version", version)
    with pytest.raises(UsageError, match=f"version {version}, .* up to 3; upgrade clipsieve"):
        Manifest.from_json(content, "dataset.json")


def test_newer_major_version_is_told_even_if_its_fields_are_unknown(tmp_path, folder):
    (tmp_path / "dataset.json").write_text('{"layout_version": "4", "new": {}}')
    with pytest.raises(UsageError, match="upgrade clipsieve"):
        folder.load_manifest()


def test_older_major_version_is_refused_with_the_way_out(tmp_path, folder):
    (tmp_path / "dataset.json").write_text('{"layout_version": "1", "families": {"clip": "0b"}}')
    message = r"version 1, of an earlier clipsieve; .* writes 3: run again into another output"
    with pytest.raises(UsageError, match=message):
        folder.load_manifest()


def test_newer_minor_version_is_read():
    manifest = Manifest.from_json(changed("layout_version", "3.3"), "dataset.json")
    assert manifest.families == FULL.families


@pytest.mark.parametrize(
    "family",
    ['a" AS SELECT 1; --', "Clip", "../clip", "a'b", "a.b", "", "1a", "a\n", "a b", "{dim}"],
)
def test_a_family_that_could_leave_its_quotes_or_folder_is_refused(family):
    content = changed("families/clip", None)
    content["families"][family] = dataclasses.asdict(FULL.families["clip"])
    with pytest.raises(UsageError, match="is not a name of clipsieve's"):
        Manifest.from_json(content, "dataset.json")


@pytest.mark.parametrize(
    "path",
    [
        "families/clip/revision",
        "families/clip/scorers/clip/revision",
        "families/density/scorers/density/learned",
        "families/density/scorers/density/basis",
        f"families/density/scorers/density/neighbours/{'0f' * 4}",
        "embeddings/revision",
        "wide/build",
    ],
)
@pytest.mark.parametrize("text", ["0b0b0b0b/../x", "0b'0b0b0b", "0B0B0B0B", "0b", "0b0b0b0b\n", 7])
def test_a_revision_that_is_no_hash_is_refused(path, text):
    with pytest.raises(UsageError, match="is not a clipsieve dataset file"):
        Manifest.from_json(changed(path, text), "dataset.json")


@pytest.mark.parametrize("slug", ["a/b", "a'b", "", "a*", "a,b"])
def test_a_model_that_is_no_folder_name_is_refused(slug):
    with pytest.raises(UsageError, match="is not a name of clipsieve's"):
        Manifest.from_json(changed("embeddings/model", slug), "dataset.json")


@pytest.mark.parametrize("scorer", ["a.b.c", "../a", "A", "a'"])
def test_a_scorer_that_is_no_name_is_refused(scorer):
    entry = dataclasses.asdict(ScorerEntry("0b" * 4))
    content = changed("families/clip/scorers", {scorer: entry})
    with pytest.raises(UsageError, match="is not a name of clipsieve's"):
        Manifest.from_json(content, "dataset.json")


def test_the_order_of_classes_in_an_option_is_kept(tmp_path):
    classes = {"star": ["a star"], "circle": ["a circle", "a disc"], "arrow": ["an arrow"]}
    family = FamilyEntry("0a" * 4, {"ood.msp": ScorerEntry("0b" * 4)}, {"classes": classes})
    folder = OutputFolder.open(tmp_path)
    folder.save_manifest(Manifest(families={"ood": family}))
    kept = folder.require_manifest().families["ood"].options["classes"]
    assert list(kept.items()) == list(classes.items())
