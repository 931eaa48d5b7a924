"""Held-out classes are told from the classes of dense demo data, through every command."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipsieve.cli import main as clipsieve
from clipsieve.demo.__main__ import main as demo
from clipsieve.sql.connect import connect
from tests.pipelines.jobs import run_command

#: Least AUROC on dense data.
FLOORS = {"ood_max_logit": 0.90, "ood_knn": 0.95}


def call(*words: str) -> None:
    """Run a command in this process; it must succeed."""
    with pytest.raises(SystemExit) as ended:
        clipsieve(list(words))
    assert ended.value.code in (0, None)


@pytest.fixture(scope="module")
def inside(tmp_path_factory) -> Path:
    """An output folder of dense data, evaluated against one of held-out classes."""
    root = tmp_path_factory.mktemp("ood-demo")
    outputs = {name: str(root / f"{name}-out") for name in ("in", "ood")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSIEVE_CACHE", str(root / "cache"))
        for name, mixture, rows in (("in", "dense", 400), ("ood", "dense_held_out", 200)):
            words = [str(root / name), "--mixture", mixture, "--rows", str(rows), "--shards", "2"]
            assert demo([*words, "--seed", str(rows)]) == 0
            classes = str(root / "in" / "classes.json")
            scorers = ("--scorers", "clip,ood.class", "--classes", classes)
            call(*run_command(root / name, root / f"{name}-out", *scorers))
        call("score", outputs["in"], "--scorers", "ood,density")
        call("score", outputs["ood"], "--scorers", "ood,density", "--learn-on", outputs["in"])
        call("evaluate", outputs["in"], "--ood", outputs["ood"], "--bootstrap", "20")
    return root / "in-out"


def test_held_out_classes_are_told_from_the_others(inside):
    detectors = pq.read_table(inside / "metrics" / "detectors.parquet").to_pylist()
    auroc = {row["column"]: row["auroc"] for row in detectors}
    assert {(row["in_rows"], row["out_rows"]) for row in detectors} == {(400, 200)}
    assert auroc.keys() >= {"ood_vim", "ood_mcm", "ood_gda", "density_kdist", *FLOORS}
    assert {name for name, floor in FLOORS.items() if auroc[name] < floor} == set()


def test_the_likeliest_class_is_the_one_that_is_shown(inside):
    with connect(inside) as scores:
        classes = dict(scores.sql("SELECT uid, ood_class FROM scores").fetchall())
    truth = pq.read_table(inside.parent / "in" / "_truth").to_pylist()
    right = [f"{row['colour']} {row['class']}" == classes[row["uid"]] for row in truth]
    assert len(right) == len(classes) == 400
    assert sum(right) / len(right) >= 0.95
