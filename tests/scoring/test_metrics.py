"""Measures of a folder: equal to those of the same arrays in memory, for any split and order."""

import dataclasses
import datetime
import pickle
from functools import reduce
from operator import add

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.control import Control
from clipsieve.errors import UsageError
from clipsieve.evaluation import groups
from clipsieve.evaluation.dataset import CalibrationState, MaNoState, logit_terms
from clipsieve.evaluation.selective import aurc
from clipsieve.scorers.base import PairBatch
from clipsieve.scoring.metrics import MetricsStage, class_scorer, folder_classes, group_names
from clipsieve.scoring.prompts import load_prototypes
from clipsieve.stage import Report
from clipsieve.statistics.labels import Labels
from clipsieve.store.manifest import FamilyEntry, Manifest
from tests.evaluation.folders import CLASSES, evaluated_folder, prompt_set, stored_column
from tests.scoring.folders import LOGIT_SCALE, InProcess, basis_of, members_of, pairs_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return evaluated_folder(tmp_path_factory.mktemp("metrics") / "out")


def stage_of(folder, **settings):
    return MetricsStage(
        folder.root,
        "run",
        "cpu",
        Control("run", folder.root),
        basis_of(folder),
        folder_classes(folder.require_manifest(), folder.root),
        len(folder.shards()),
        **{"bins": 15, **settings},
    )


def measure(folder, **settings):
    """Measures by group."""
    stage = stage_of(folder, **settings)
    report = InProcess().run(stage, stage.elements(members_of(folder)))
    return {row.pop("group"): row for row in report.value}


def expected(folder, rows=None, labels="class"):
    """The same of arrays in memory, of some rows of the dataset."""
    pairs = [pairs_of(folder).read(shard, frozenset()) for shard in folder.shards()]
    unit = np.concatenate([batch.image.unit() for batch in pairs])
    valid = np.concatenate([batch.image.valid for batch in pairs])
    rows = np.ones(len(valid), bool) if rows is None else rows
    entry = folder.require_manifest().embeddings
    prototypes = load_prototypes(folder, entry, [prompt_set()])[prompt_set()]
    kept = valid & rows
    terms = logit_terms(LOGIT_SCALE * (unit[kept] @ prototypes.T))
    names = np.array(stored_column(folder, "samples", labels), object)[kept]
    labelled = np.isin(names, CLASSES)
    truth = np.array([CLASSES.index(name) for name in names[labelled]])
    correct = terms.predicted[labelled] == truth
    confidence = terms.confidence[labelled]
    mano = MaNoState.from_terms(terms, 3).result()
    calibration = CalibrationState.from_rows(confidence, correct)
    return {
        "rows": int(kept.sum()),
        "missing_rows": int((rows & ~valid).sum()),
        "mano": mano.value if mano else None,
        "labelled_rows": len(correct),
        "unlabelled_rows": int((names == None).sum()),  # noqa: E711
        "unknown_labels": int((names == "cow").sum()),
        "accuracy": correct.mean() if len(correct) else None,
        "ece": calibration.error(),
        "aurc": aurc(confidence, correct),
    }


def close(row, values):
    return all(
        row[name] == (None if value is None else pytest.approx(value, rel=1e-9))
        for name, value in values.items()
    )


def test_all_rows_are_one_group(folder):
    found = measure(folder, labels="class")
    assert list(found) == ["all"]
    assert close(found["all"], expected(folder))
    assert found["all"]["unknown_example"] == "cow"
    assert found["all"]["missing_rows"] == 4


def test_a_shard_is_a_group(folder):
    shards = np.array(stored_column(folder, "samples", "shard"))
    found = measure(folder, labels="class", by="shard")
    assert list(found) == ["a", "b", "c"]
    for name, row in found.items():
        assert close(row, expected(folder, shards == name))


def test_a_value_of_a_column_is_a_group_and_null_the_last(folder):
    kinds = np.array(stored_column(folder, "samples", "kind"), object)
    found = measure(folder, labels="class", by="kind")
    assert list(found) == ["a", "b", None]
    for name, row in found.items():
        assert close(row, expected(folder, kinds == name))


def test_without_labels_there_is_mano_only(folder):
    row = measure(folder)["all"]
    assert row["mano"] == expected(folder)["mano"]
    assert (row["accuracy"], row["ece"], row["aurc"]) == (None, None, None)


def test_positions_of_classes_are_labels(folder):
    row = measure(folder, labels="number")["all"]
    assert (row["labelled_rows"], row["unknown_labels"]) == (row["rows"], 0)


def test_order_of_shards_and_how_reports_are_added_change_no_bit(folder):
    stage = stage_of(folder, labels="class", by="kind")
    wholes = set()
    for order in (["a", "b", "c"], ["c", "a", "b"]):
        reports = list(stage.open().work(order))
        one = reduce(add, reports, Report())
        other = reports[0] + pickle.loads(pickle.dumps(reports[1] + reports[2]))
        wholes |= {str(stage.finish(total).value) for total in (one, other)}
    assert len(wholes) == 1


def test_one_shard_gives_the_bits_of_two(tmp_path):
    split = evaluated_folder(tmp_path / "two", [("a", 30), ("b", 20)])
    states = [report.value.states["all"] for report in stage_of(split).open().work(["a", "b"])]
    assert (states[0] + states[1]).mano == (states[1] + states[0]).mano
    assert measure(split)["all"] == (states[0] + states[1]).to_json()


def test_a_part_of_the_shards_gives_nothing(folder):
    stage = stage_of(folder)
    total = reduce(add, stage.open().work(["a", "b"]))
    assert stage.finish(total).value is None


def test_too_many_groups_are_said(folder, monkeypatch):
    monkeypatch.setattr(groups, "MOST_GROUPS", 2)
    stage = stage_of(folder, by="kind")
    elements = stage.elements(members_of(folder))
    assert InProcess().run(stage, elements).value == "full"


def test_a_shard_without_rows_is_in_no_group(tmp_path):
    made = evaluated_folder(tmp_path / "out", [("a", 0)])
    assert measure(made, by="kind") == {}


# Labels and groups


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        *(("cat", 0), ("fox", 2), (1, 1), (2.0, 2), ("Cat", -2), ("1", -2), (3, -2), (-1, -2)),
        *((0.5, -2), (True, -2), (b"cat", -2), (None, -1), (float("nan"), -1)),
        *((float("inf"), -2), ([0], -2)),
    ],
)
def test_labels_are_names_or_positions(label, expected):
    assert Labels(CLASSES).class_of(label) == expected


def test_the_first_of_two_equal_names_counts():
    assert Labels(["a", "b", "a"]).class_of("a") == 0


def test_groups_are_values_as_text():
    day = datetime.date(2020, 1, 2)
    values = [True, 1, "1", 1.5, None, [1, "x"], {"b": 2, "a": 1}, day]
    batch = PairBatch(pa.array(["u"] * 8), columns={"c": values}, shard="s")
    names = ["true", "1", "1", "1.5", None, '[1,"x"]', '{"a":1,"b":2}', "2020-01-02"]
    assert group_names(batch, "c") == names
    assert group_names(batch, "shard") == ["s"] * 8
    assert group_names(batch, None) == ["all"] * 8


def test_classes_are_those_of_the_folders_scores(folder):
    manifest = folder.require_manifest()
    classes = folder_classes(manifest, folder.root)
    assert class_scorer(classes).prompt_set == prompt_set()
    others = dataclasses.replace(
        manifest.families["ood"].scorers["ood.msp"], options={"classes": ["x", "y"]}
    )
    family = FamilyEntry("0b" * 4, {"ood.vim": others})
    changed = dataclasses.replace(manifest, families={"ood": family})
    classes = folder_classes(changed, folder.root)
    assert class_scorer(classes).prompt_set.names == ("x", "y")


def test_a_folder_without_ood_scores_is_refused_with_the_command():
    with pytest.raises(UsageError, match="compute them: clipsieve score place --scorers ood"):
        folder_classes(Manifest(), "place")
