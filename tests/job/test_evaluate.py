"""`clipsieve evaluate` over whole folders: tables, views, what is printed and what is refused."""

import dataclasses
import json
import re
import shutil

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

import clipsieve
from clipsieve.errors import LedgerError, Locked, UsageError
from clipsieve.evaluation.ranking import FPR95, ScoreCounts, detect
from clipsieve.job.evaluate import EvaluationSettings, evaluate
from clipsieve.job.score_columns import OodColumn
from clipsieve.schemas import footers
from clipsieve.schemas.metrics import DATASET, DETECTORS
from clipsieve.settings import ScoreConfig
from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from tests.evaluation.folders import FAMILY_REVISION, evaluated_folder, stored_column
from tests.pipelines.jobs import exit_code, manifest_of
from tests.scoring.folders import (
    MODEL,
    InProcess,
    make_folder,
    make_shard,
    read_scores,
    score_folder,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two folders that tests copy; the scores of the second are 1.5 higher."""
    root = tmp_path_factory.mktemp("made")
    evaluated_folder(root / "out")
    evaluated_folder(root / "other", [("x", 30), ("y", 21)], seed=50, shift=1.5)
    return root


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made / "out", tmp_path / "out")
    return OutputFolder.open(tmp_path / "out")


@pytest.fixture
def other(made, tmp_path):
    shutil.copytree(made / "other", tmp_path / "other")
    return OutputFolder.open(tmp_path / "other")


def evaluated(folder, engine=None, **settings):
    config = ScoreConfig(out=folder.root)
    return evaluate(config, lambda: engine or InProcess(), EvaluationSettings(**settings))


def rows_of(folder, view):
    relation = clipsieve.connect(folder.root).sql(f"FROM {view}")
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def scores(folder, column):
    return np.array([np.nan if v is None else v for v in stored_column(folder, "ood", column)])


# Measures of the dataset


def test_measures_are_a_table_and_a_view(folder):
    result = evaluated(folder, labels="class", by="kind", bins=7)
    found = rows_of(folder, "metrics")
    assert [row["group"] for row in found] == ["a", "b", None]
    assert found == [{name: row[name] for name in DATASET.names} for row in result.metrics]
    for row in found:
        values = [row[name] for name in ("group_by", "labels", "ece_bins", "classes", "mano_power")]
        assert values == ["kind", "class", 7, 3, 4]
        assert row["mano_branch"] in ("softmax", "taylor")
    assert not result.detectors and result.exit_code == 0
    footer = folder.read_footer(names.DATASET_METRICS)
    assert json.loads(footer[footers.PARAMETERS])["logit_scale"] == found[0]["logit_scale"] == 50
    schema = folder.read_schema(names.DATASET_METRICS)
    assert schema.field("mano").metadata[b"doc"].startswith(b"MaNo")


def test_without_labels_their_columns_are_null(folder):
    evaluated(folder)
    (row,) = rows_of(folder, "metrics")
    assert (row["group_by"], row["group"], row["rows"]) == ("all", "all", 62)
    after = DATASET.names[DATASET.names.index("labels") :]
    assert {row[name] for name in after} == {None}


def test_two_processes_give_the_same_rows_as_one(folder):
    two = clipsieve.evaluate(folder.root, labels="class", by="kind", workers=2)
    assert two == evaluated(folder, labels="class", by="kind")


def test_a_stopped_run_writes_nothing(folder):
    result = evaluated(folder, InProcess(stop_in=0, stop_after=1))
    assert (result.metrics, result.exit_code) == ((), 3)
    assert not folder.files.exists(names.DATASET_METRICS)


def test_folder_without_shards_is_refused(folder):
    for shard in folder.shards():
        folder.files.delete(names.samples(shard))
    with pytest.raises(UsageError, match="holds no shard yet"):
        evaluated(folder)


@pytest.mark.parametrize("setting", ["labels", "by"])
def test_unknown_columns_are_refused_with_those_there_are(folder, setting):
    with pytest.raises(UsageError, match=r"column 'none' is not among .* take one of uid, .*kind"):
        evaluated(folder, **{setting: "none"})
    assert not folder.files.exists(names.DATASET_METRICS)


def test_labels_of_which_none_is_a_class_are_refused(folder):
    with pytest.raises(UsageError, match="no label in column 'kind', such as 'a', is one of"):
        evaluated(folder, labels="kind")


def test_too_many_groups_are_refused(folder, monkeypatch):
    monkeypatch.setattr("clipsieve.evaluation.groups.MOST_GROUPS", 2)
    with pytest.raises(UsageError, match=r"column 'kind' has more than .* values"):
        evaluated(folder, by="kind")


def test_folder_without_ood_scores_is_refused_with_the_command(folder):
    folder.save_manifest(dataclasses.replace(folder.require_manifest(), families={}))
    cure = re.escape(f"clipsieve score {folder.root} --scorers ood")
    with pytest.raises(UsageError, match=cure):
        evaluated(folder)


# Scores compared


def test_two_folders_are_compared(folder, other):
    result = evaluated(folder, ood=other.root)
    found = rows_of(folder, "detectors")
    assert found == [{name: row[name] for name in DETECTORS.names} for row in result.detectors]
    assert {row["column"] for row in found} == {"ood_msp", "ood_vim"}
    assert [row["auroc"] for row in found] == sorted((r["auroc"] for r in found), reverse=True)
    for row in found:
        inside, outside = scores(folder, row["column"]), scores(other, row["column"])
        expected = detect(ScoreCounts.from_scores(inside, outside), 200, 0)
        for name in ("auroc", "aupr_in", "aupr_out", "fpr95"):
            values = tuple(row[f"{name}{end}"] for end in ("", "_low", "_high"))
            assert values == getattr(expected, name)
        assert row["in_rows"] + row["in_missing"] == 66
        assert row["out_rows"] + row["out_missing"] == 51
        assert (row["out_of_distribution"], row["fpr95_convention"]) == (other.root, FPR95)
    assert found[0]["auroc"] > 0.75
    assert not result.metrics and not folder.files.exists(names.DATASET_METRICS)


def test_measures_come_with_a_comparison_if_they_are_asked_for(folder, other):
    result = evaluated(folder, ood=other.root, by="shard", bootstrap=0)
    assert len(result.metrics) == 3 and len(result.detectors) == 2
    assert result.detectors[0]["auroc_low"] is None


@pytest.mark.parametrize(
    ("text", "outside", "inside"),
    [
        ("is_ood", [True], [False]),
        ("kind=a", ["a"], ["b"]),
        ("number=0,2", [0, 2], [1]),
    ],
)
def test_a_column_says_which_rows_are_out_of_distribution(folder, text, outside, inside):
    found = evaluated(folder, ood_column=text, bootstrap=0).detectors
    values = stored_column(folder, "samples", text.partition("=")[0])
    is_out, is_in = ([v in kind and v is not None for v in values] for kind in (outside, inside))
    for row in found:
        given = scores(folder, row["column"])
        expected = detect(ScoreCounts.from_scores(given[is_in], given[is_out]), 0)
        assert row["auroc"] == expected.auroc[0]
        assert row["out_of_distribution"] == text
    assert rows_of(folder, "detectors")


def test_density_alone_is_enough(tmp_path):
    flags = [[n % 5 == 0 for n in range(60)], [n % 4 == 0 for n in range(40)]]
    shards = [
        make_shard(name, len(is_ood), at, carried=pa.table({"is_ood": is_ood}))
        for at, (name, is_ood) in enumerate(zip("ab", flags, strict=True))
    ]
    folder = make_folder(tmp_path / "out", shards)
    score_folder(folder, ["density"])
    found = evaluated(folder, ood_column="is_ood", bootstrap=10).detectors
    assert {row["column"] for row in found} == {
        f"density_{name}{size}"
        for name in ("kdist", "slof", "dao", "lid")
        for size in ("", "_large")
    }
    tables = [read_scores(folder, "density", shard) for shard in "ab"]
    given = np.concatenate([table["density_kdist"].to_numpy() for table in tables])
    is_out = np.concatenate(flags)
    (kdist,) = [row for row in found if row["column"] == "density_kdist"]
    assert kdist["auroc"] == pytest.approx(roc_auc_score(is_out, given), rel=1e-12)


def test_columns_of_other_revisions_are_left_out_with_the_cure(folder, tmp_path):
    other = evaluated_folder(tmp_path / "other", seed=9, learned="2b" * 4)
    result = evaluated(folder, ood=other.root)
    assert [row["column"] for row in result.detectors] == ["ood_msp"]
    (note,) = result.notes
    cure = f"clipsieve score {other.root} --scorers ood.vim --learn-on {folder.root}"
    assert note.startswith("left out ood_vim: ") and note.endswith(cure)


def test_folders_without_a_common_score_are_refused(folder, other):
    other.save_manifest(dataclasses.replace(other.require_manifest(), families={}))
    with pytest.raises(
        UsageError, match=r"(?s)no score is comparable .* is not in .*--scorers ood"
    ):
        evaluated(folder, ood=other.root)


def test_folders_of_different_models_are_refused(folder, tmp_path):
    model = dataclasses.replace(MODEL, weights_sha256="1" * 64)
    other = evaluated_folder(tmp_path / "other", model=model)
    with pytest.raises(UsageError, match="scores of different models cannot be compared"):
        evaluated(folder, ood=other.root)


def test_the_folder_itself_and_a_folder_without_a_dataset_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="is the evaluated folder itself"):
        evaluated(folder, ood=folder.root)
    with pytest.raises(UsageError, match="holds no clipsieve dataset"):
        evaluated(folder, ood=str(tmp_path / "nothing"))


def test_folder_without_scores_is_refused_with_the_command(folder, other):
    folder.save_manifest(dataclasses.replace(folder.require_manifest(), families={}))
    with pytest.raises(UsageError, match="holds no scores that tell rows apart; compute some:"):
        evaluated(folder, ood=other.root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none", "column 'none' is not among"),
        ("kind", "has value '[ab]', which is neither true nor false; .*--ood-column kind=VALUE"),
        ("number=7", "no row of .* is out of distribution by column number=7"),
        ("kind=a,b", "no row of .* is in-distribution by column kind=a,b"),
        ("kind=", "'kind=' is not COLUMN or COLUMN=VALUE"),
        ("=a", "'=a' is not COLUMN"),
    ],
)
def test_columns_that_do_not_say_it_are_refused(folder, text, message):
    with pytest.raises(UsageError, match=message):
        evaluated(folder, ood_column=text)
    assert not folder.files.exists(names.DETECTORS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((True, True), (False, False), (1, True), (0, False), (1.0, True), ("True", True)),
        *(("0", False), (None, None), (float("nan"), None)),
    ],
)
def test_true_and_one_are_out_of_distribution(value, expected):
    assert OodColumn("c").is_outside(value) is expected


def test_scores_of_other_rows_are_refused(folder):
    name = names.scores("ood", FAMILY_REVISION, "c")
    footer = {**folder.read_footer(name), footers.UID_HASH: "0"}
    folder.write_table(name, folder.read_table(name), footer)
    with pytest.raises(LedgerError, match="has other uids than the ledger"):
        evaluated(folder, ood_column="is_ood")


def test_a_missing_file_of_scores_is_refused(folder, other):
    other.files.delete(names.scores("ood", FAMILY_REVISION, "y"))
    with pytest.raises(LedgerError, match=r"y\.parquet is missing or damaged"):
        evaluated(folder, ood=other.root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins": 0}, "bins must be an integer of at least 1, got 0"),
        ({"bootstrap": -1}, "bootstrap must be an integer of at least 0, got -1"),
        ({"seed": 0.5}, "seed must be an integer of at least 0, got 0.5"),
        ({"ood": "a", "ood_column": "b"}, "a folder or a column, not both|folder or a column"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        EvaluationSettings(**settings)


def test_folder_that_is_being_written_is_left_alone(folder):
    with OutputFolder.open(folder.root).lock(), pytest.raises(Locked):
        evaluated(folder)


def test_folder_without_a_dataset_is_refused_and_not_made(tmp_path):
    with pytest.raises(UsageError, match="holds no clipsieve dataset"):
        evaluated(OutputFolder.open(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_views_are_there_once_something_was_evaluated(folder):
    for view in ("metrics", "detectors"):
        with pytest.raises(duckdb.CatalogException, match=f"{view} does not exist"):
            rows_of(folder, view)


# The command


def test_command_prints_measures(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert exit_code(["evaluate", folder.root, "--labels", "class", "--by", "kind"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["kind", "rows", "MaNo", "branch", "labelled", "accuracy", "ECE", "AURC"] in lines
    assert [line[0] for line in lines if line[3:4] in (["softmax"], ["taylor"])] == [
        *("a", "b", "NULL")
    ]
    assert "left out: 4 rows without an image embedding" in out
    assert "rows with a label that is no class" in out


def test_command_prints_detectors_and_notes(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # figures are whole in a narrow terminal too
    other = evaluated_folder(tmp_path / "other", seed=9, learned="2b" * 4, shift=1)
    assert exit_code(["evaluate", folder.root, "--ood", other.root, "--seed", "3"]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.strip().startswith("ood_msp")]
    assert re.fullmatch(r"\s*ood_msp(\s+\d\.\d{4} \(\d\.\d{3}-\d\.\d{3}\)){4}\s*", line)
    assert "FPR95: in-distribution is positive" in out and "--learn-on" in out
    assert rows_of(folder, "detectors")[0]["seed"] == 3


def test_command_refuses_what_python_refuses(folder, capsys):
    assert exit_code(["evaluate", folder.root, "--bins", "0"]) == 2
    assert "bins must be" in capsys.readouterr().err
    assert exit_code(["evaluate"]) == 2
    assert "out is not given" in capsys.readouterr().err


def test_manifest_and_other_tables_stay_as_they_are(folder, other):
    before = manifest_of(folder.root)
    evaluated(folder, ood=other.root, labels="class")
    assert manifest_of(folder.root) == before
    assert pa.schema(DETECTORS).names == folder.read_schema(names.DETECTORS).names
