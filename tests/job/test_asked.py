"""Scorers of a command, and the geometry that a checkpoint declares."""

import json

import pytest

from clipsieve.errors import UsageError
from clipsieve.job.asked import (
    asked_scorers,
    check_geometry,
    declared_geometry,
    with_enough_classes,
)
from clipsieve.job.plan import scorer_options
from clipsieve.scorers.registry import make_scorers, resolve_names
from clipsieve.store.manifest import FamilyEntry, Manifest, ScorerEntry
from tests.scoring.folders import Silent

OF_LOGITS = {f"ood.{n}" for n in ("class", "msp", "max_logit", "margin", "energy", "entropy")}
OF_LOGITS |= {"ood.gen", "ood.pnorm"}


@pytest.fixture
def model(tmp_path):
    def declare(**values):
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}, **values}))
        return f"local-dir:{tmp_path}"

    return declare


def test_models_are_of_cosines_unless_they_declare_otherwise(model):
    for name in ("tiny", "ViT-B-32", "local-dir:/nowhere", model(), model(geometry="cosine")):
        assert declared_geometry(name) == {}
        assert asked_scorers(["clip", "ood"], name) == ("clip", *resolve_names(["ood"]))


def test_groups_leave_out_what_a_declared_geometry_does_not_define(model):
    name = model(geometry="lorentz", curvature=0.5)
    assert declared_geometry(name) == {"geometry": "lorentz", "curvature": 0.5}
    assert set(asked_scorers(["ood.zero_shot"], name)) == OF_LOGITS
    assert set(asked_scorers(["clip", "density", "ood"], name)) >= OF_LOGITS | {"clip", "density"}
    asked = asked_scorers(["ood"], name)
    options = scorer_options(None, asked, {}, name)
    assert options["ood"] == {"classes": "imagenet", "geometry": "lorentz", "curvature": 0.5}
    for scorer in make_scorers(
        asked, {**options, "ood": {**options["ood"], "classes": list("abc")}}
    ):
        assert scorer.parameters()["geometry"] == "lorentz"


@pytest.mark.parametrize("scorer", ["ood.mcm", "ood.knn", "ood.anomaly", "ood.vim"])
def test_a_scorer_of_cosines_that_is_named_is_refused(model, scorer):
    name = model(geometry="euclidean")
    assert asked_scorers([scorer, "ood.msp"], name) == (scorer, "ood.msp")
    with pytest.raises(UsageError, match=f"{scorer}: defined on cosines, and the model's geometry"):
        scorer_options(None, [scorer, "ood.msp"], {}, name)
    check_geometry([scorer, "density"], {"ood": {"geometry": "cosine"}})


def test_an_option_overrules_what_is_declared(model):
    name = model(geometry="euclidean")
    options = scorer_options(None, ["ood.mcm"], {"ood": {"geometry": "cosine"}}, name)
    assert options["ood"]["geometry"] == "cosine"


def test_an_unknown_geometry_is_refused_with_its_place(model):
    with pytest.raises(UsageError, match=r"open_clip_config.json declares geometry 'flat'; known"):
        declared_geometry(model(geometry="flat"))


def test_options_that_no_scorer_takes_are_not_made_up():
    for name in ("ood.knn", "ood.anomaly"):
        options = scorer_options(None, [name], {}, "ViT-B-32")
        assert "classes" not in options.get("ood", {})
        assert [scorer.name for scorer in make_scorers([name], options)] == [name]
    assert scorer_options(None, ["density"], {}, "tiny") == {}


def test_an_option_replaces_the_one_that_excludes_it(tmp_path):
    (tmp_path / "words.txt").write_text("cat\ndog\n")
    entry = ScorerEntry("0a" * 4, {"negatives": ["a chair"], "groups": 1})
    family = FamilyEntry("0b" * 4, {"ood.neglabel": entry}, {"classes": ["a", "b"]})
    manifest = Manifest(families={"ood": family})
    given = {"ood.neglabel": {"words": str(tmp_path / "words.txt")}}
    options = scorer_options(manifest, ["ood.neglabel"], given, "tiny")
    assert options["ood.neglabel"] == {"words": ["cat", "dog"], "groups": 1}
    assert scorer_options(manifest, ["ood.neglabel"], {}, "tiny")["ood.neglabel"] == entry.options


def test_scorers_that_need_more_classes_are_left_out_unless_they_are_named():
    said = Silent()
    zero_shot = resolve_names(["ood.zero_shot"])
    for count, short in ((1, {"ood.margin", "ood.pnorm"}), (2, {"ood.pnorm"}), (3, set())):
        options = {"ood": {"classes": list("abc")[:count]}}
        kept = with_enough_classes(zero_shot, ["ood.zero_shot"], options, said)
        assert set(zero_shot) - set(kept) == short
        assert with_enough_classes(zero_shot, zero_shot, options, said) == zero_shot
        make_scorers(kept, options)
    imagenet = {"ood": {"classes": "imagenet"}}
    assert with_enough_classes(zero_shot, [], imagenet, said) == zero_shot
    assert with_enough_classes(["density"], [], {}, said) == ("density",)
