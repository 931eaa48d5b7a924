"""The `ood` scores of whole folders: the same bits however they are made, and what is refused."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsieve.clip.model import identify
from clipsieve.demo.classes import CLASSES
from clipsieve.demo.shards import write_shards
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.pipelines.run_stage import run_groups
from clipsieve.scorers.registry import make_scorers, resolve_names
from clipsieve.scoring.prompts import prompt_sets
from clipsieve.settings import DEFAULT_SCORERS
from clipsieve.store.folder import OutputFolder
from tests.pipelines.jobs import (
    exit_code,
    manifest_of,
    read,
    run_job,
    start,
    write_one,
)
from tests.pipelines.plugins import install_scorer
from tests.scoring.folders import make_folder, make_shard, read_scores, score_folder

DIM = 128
#: Rows by shard: more and fewer than any size of batch, and one alone.
SHARDS = {"a": 700, "b": 4200, "c": 1, "d": 300, "e": 257}
OOD = resolve_names(["ood"])
ZERO_SHOT = resolve_names(["ood.zero_shot"])
OPTIONS = {"ood": {"classes": "demo"}}
DEVICE = ("--device", "cpu")


@pytest.fixture(scope="module")
def tiny():
    return identify("tiny", None, "float32")[0]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, tiny):
    """A folder of made-up embeddings that says they are of the model `tiny`."""
    shards = [
        make_shard(name, rows, at, no_image=[7, 256], no_text=[3], dim=DIM)
        for at, (name, rows) in enumerate(SHARDS.items())
    ]
    return Path(make_folder(tmp_path_factory.mktemp("made") / "out", shards, tiny).root)


def copy_of(folder, place):
    shutil.copytree(folder, place)
    return OutputFolder.open(place)


@pytest.fixture(scope="module")
def calm(embedded, tmp_path_factory):
    """A copy with all scores of the family, made in one piece."""
    folder = copy_of(embedded, tmp_path_factory.mktemp("calm") / "out")
    assert score_folder(folder, OOD, OPTIONS, BeamEngine()).done == len(SHARDS)
    return folder


def made(folder, pattern):
    """Bytes of files of an output folder, by name."""
    root = Path(folder.root if isinstance(folder, OutputFolder) else folder)
    files = sorted(path for path in root.glob(pattern) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def assert_same_bytes(folder, calm):
    for pattern, files in (("fits/*/*.npz", 7), ("fits/*/*.json", 7), ("scores/ood/*/*", 5)):
        expected = made(calm, pattern)
        assert len(expected) == files
        assert made(folder, pattern) == expected
    assert folder.require_manifest() == calm.require_manifest()


def test_every_score_is_there_for_every_row_with_an_image(calm):
    scorers = make_scorers(OOD, OPTIONS)
    for shard in SHARDS:
        table = read_scores(calm, "ood", shard)
        names = [name for scorer in scorers for name in scorer.columns.names]
        assert table.column_names == ["uid", *names]
        missing = [row for row in (7, 256) if row < len(table)]
        for name in names:
            assert np.flatnonzero(table[name].is_null()).tolist() == missing, name


class TwoWorkers:
    """Runs the first pass of learning and the scores in two processes, the rest in this one."""

    is_local = True

    def __init__(self):
        self.ran = []

    def run(self, stage, elements, here=False):
        """Run a stage."""
        in_two = stage.name not in self.ran
        self.ran.append(stage.name)
        return BeamEngine(workers=2 if in_two else 1).run(stage, elements, here)


def test_two_workers_make_the_bytes_of_one(embedded, calm, tmp_path):
    folder, engine = copy_of(embedded, tmp_path / "out"), TwoWorkers()
    shutil.copytree(Path(calm.root) / "prompts", tmp_path / "out" / "prompts")
    score_folder(folder, OOD, OPTIONS, engine)
    assert engine.ran == ["learn", "learn", "score"]
    assert_same_bytes(folder, calm)


class Grouped:
    """Runs stages in this process over given groups of shards."""

    is_local = True

    def __init__(self, groups):
        self._groups = groups

    def run(self, stage, elements, here=False):
        """Run the shards in their groups, anything else in one."""
        texts = [element.text for element in elements]
        groups = [[t for t in group if t in texts] for group in self._groups]
        return run_groups(stage, [g for g in groups if g] if set(texts) <= {*SHARDS} else [texts])


@pytest.mark.parametrize(
    ("groups", "threads"), [(["edcba"], "1"), (["bd", "ca", "e"], "3"), ([*"cebda"], "2")]
)
def test_any_grouping_and_number_of_threads_makes_the_same_bytes(
    embedded, calm, tmp_path, monkeypatch, groups, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    folder = copy_of(embedded, tmp_path / "out")
    score_folder(folder, OOD, OPTIONS, Grouped([list(group) for group in groups]))
    assert_same_bytes(folder, calm)


FATAL = """
import os, signal
from dataclasses import dataclass
import numpy as np, pyarrow as pa
from clipsieve import Input, Scorer, score_column

def die(where, batch):
    if os.environ.get("FATAL") == where and batch.shard == "d":
        os.kill(os.getpid(), signal.SIGKILL)

@dataclass(frozen=True)
class Rows:
    where: str
    needs = frozenset({Input.IMAGE_EMBEDDING})

    def observe(self, batch, context):
        die(self.where, batch)
        return len(batch)

class Plugin(Scorer):
    name = family = "fatal"
    columns = pa.schema([score_column("fatal", "doc", "none", "0", "test")])

    def statistics(self, known, context):
        missing = [name for name in ("first", "second") if name not in known]
        return {name: Rows(name) for name in missing[:1]}

    def learn(self, sums, known, context):
        return {**known, **{name: np.array(rows) for name, rows in sums.items()}}

    def score(self, batch, loaded):
        die("score", batch)
        return {"fatal": np.zeros(len(batch))}
"""


def test_a_job_killed_while_it_learns_and_while_it_scores_ends_with_the_same_bits(
    embedded, calm, tmp_path, monkeypatch
):
    install_scorer(tmp_path / "site", "fatal", FATAL, monkeypatch)
    folder = copy_of(embedded, tmp_path / "out")
    root = Path(folder.root)
    before = made(folder, "dataset.json")
    words = ["score", str(root), "--scorers", "ood,fatal", *DEVICE, "--run-id", "run"]

    def killed_in(where):
        with start(words, env={**os.environ, "FATAL": where}) as process:
            _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors

    killed_in("second")
    assert len(list(root.glob("fits/ood.vim/*.pass1.npz"))) == 1
    assert len(list(root.glob("fits/ood.gda/*.npz"))) == 1
    assert not list(root.glob("scores/ood/*/*"))
    killed_in("score")
    assert {path.stem for path in root.glob("scores/ood/*/*.parquet")} == set("abc")
    assert made(folder, "dataset.json") == before
    kept = made(folder, "scores/ood/*/*") | made(folder, "fits/ood.*/*.npz")
    assert exit_code(words) == 0
    assert kept.items() <= (made(folder, "scores/ood/*/*") | made(folder, "fits/ood.*/*")).items()
    assert made(folder, "fits/ood.*/*.npz") == made(calm, "fits/ood.*/*.npz")
    for shard in SHARDS:
        mine, theirs = (read_scores(each, "ood", shard) for each in (folder, calm))
        assert mine.equals(theirs, check_metadata=False)
        assert mine.schema.names == theirs.schema.names
    assert read(root, "wide")["ood_vim"].null_count > 0


# A run of demo data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with the default scorers; its source is gone afterwards."""
    place = tmp_path_factory.mktemp("finished")
    write_shards(place / "source", 80, 2, seed=5)
    assert run_job(place / "source", place / "out", scorers=DEFAULT_SCORERS).ood
    shutil.move(place / "source", place / "moved")
    return place / "out"


@pytest.fixture
def out(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def three(tmp_path):
    """A file with three classes."""
    path = tmp_path / "three.txt"
    path.write_text("star\ntree\nbirthday cake\n")
    return path


def unit_vectors(out):
    """Unit image vectors of the rows of the `wide` table; NaN where there are none."""
    vectors = []
    for path in sorted((out / "embeddings").rglob("*.parquet")):
        column = pq.read_table(path, partitioning=None)["image_embedding"]
        vectors += [v if v is not None else [np.nan] * DIM for v in column.to_pylist()]
    array = np.array(vectors, np.float64)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def prototypes_of(out, options):
    entry = manifest_of(out).embeddings
    assert entry is not None
    (prompts,) = prompt_sets(make_scorers(["ood.msp"], options))
    name = f"prompts/{entry.model}/rev={entry.revision}/{prompts.texts_key}.npz"
    means = OutputFolder.open(out).read_arrays(name)["means"]
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def assert_scores_of(out, options, names):
    """The classes and two scores are those of the classes that the options say."""
    wide, unit = read(out, "wide"), unit_vectors(out)
    cosines = unit @ prototypes_of(out, options).T
    valid = ~np.isnan(unit[:, 0])
    assert 0 < (~valid).sum() < len(unit)
    assert np.allclose(
        wide["ood_max_logit"].to_numpy(), -cosines.max(axis=1), atol=1e-6, equal_nan=True
    )
    powers = np.exp(cosines - cosines.max(axis=1, keepdims=True))
    mcm = -1 / powers.sum(axis=1)
    assert np.allclose(wide["ood_mcm"].to_numpy(), mcm, rtol=1e-6, equal_nan=True)
    best = [names[k] if ok else None for k, ok in zip(cosines.argmax(axis=1), valid, strict=True)]
    assert wide["ood_class"].to_pylist() == best


def test_a_run_writes_the_scores_that_need_no_learning(finished):
    manifest = manifest_of(finished)
    assert tuple(sorted(manifest.families["ood"].scorers)) == tuple(sorted(ZERO_SHOT))
    assert manifest.families["ood"].options == {"classes": "demo"}
    assert all(not entry.options for entry in manifest.families["ood"].scorers.values())
    assert not list(finished.glob("fits/ood*"))
    assert_scores_of(finished, OPTIONS, CLASSES)
    columns = [name for s in make_scorers(ZERO_SHOT, OPTIONS) for name in s.columns.names]
    assert set(columns) <= set(read(finished, "wide").column_names)


def test_other_classes_are_scored_without_a_picture_and_stay_with_the_folder(out, three, tmp_path):
    before, old = manifest_of(out), read(out, "wide")
    words = ["score", str(out), "--scorers", "ood.msp", "--classes", str(three), *DEVICE]
    assert exit_code(words) == 0  # the source is gone
    three.unlink()
    names = ["star", "tree", "birthday cake"]
    after, options = manifest_of(out), {"ood": {"classes": names}}
    assert after.families["ood"].options == options["ood"]
    assert all(not entry.options for entry in after.families["ood"].scorers.values())
    same = {n for n, entry in after.scorers().items() if entry == before.scorers()[n]}
    assert same == {"clip", "density", "ood.anomaly"}  # those without classes
    assert after.families["ood"].revision != before.families["ood"].revision
    assert_scores_of(out, options, names)
    new = read(out, "wide")
    for column in old.column_names:
        same_values = new[column].equals(old[column])
        assert same_values == (not column.startswith("ood_") or "anomaly" in column), column

    source = tmp_path / "source"
    write_one(source, "more", 30, seed=8)
    assert run_job(source, out, scorers=("ood.class",)).done == 1
    assert manifest_of(out).families["ood"] == after.families["ood"]
    assert read(out, "wide").num_rows == old.num_rows + 30
    assert_scores_of(out, options, names)
    assert exit_code(["score", str(out), "--scorers", "ood.msp", "--classes", "demo", *DEVICE]) == 0
    assert_scores_of(out, OPTIONS, CLASSES)
    assert manifest_of(out).families["ood"] == before.families["ood"]


def test_sizes_of_prompt_sets():
    def size_of(**options):
        (scorer,) = make_scorers(["ood.msp"], {"ood": options})
        (prompts,) = scorer.prompts()
        return len(prompts.names), sum(map(len, prompts.texts)), len(prompts.texts[0])

    assert size_of(classes="imagenet", templates="openai") == (1000, 80_000, 80)
    assert size_of(classes="imagenet") == (1000, 1000, 1)
    assert size_of(classes=["star", "tree"], templates="openai") == (2, 160, 80)
    assert size_of(classes={"star": ["a", "b"], "tree": "c"}, templates="openai") == (2, 3, 2)


def test_templates_of_a_list_are_averaged(out, three, capsys):
    words = ["score", str(out), "--scorers", "ood.class", "--classes", str(three), *DEVICE]
    capsys.readouterr()
    assert exit_code([*words, "--templates", "openai"]) == 0
    names = ["star", "tree", "birthday cake"]
    assert_scores_of(out, {"ood": {"classes": names, "templates": "openai"}}, names)
    assert manifest_of(out).families["ood"].options == {"classes": names, "templates": "openai"}


LONG = " and ".join(["a very long description of a star"] * 8)


def test_prompts_over_the_context_length_are_said_also_when_they_were_encoded_before(
    out, tmp_path, capsys
):
    path = tmp_path / "long.json"
    path.write_text(f'{{"star": ["{LONG}", "a star"], "tree": ["{LONG} or tree"], "cup": "a cup"}}')
    shutil.copytree(out, tmp_path / "other")
    for place in (out, tmp_path / "other"):
        capsys.readouterr()
        words = ["score", str(place), "--scorers", "ood.msp", "--classes", str(path), *DEVICE]
        assert exit_code(words) == 0
        lines = capsys.readouterr().err.splitlines()
        assert "2 of 4 prompts are longer than the model's 24 tokens and were cut" in lines
        assert ("encoding 4 texts of 1 sets" in lines) == (place == out)


def state_of(out):
    return {pattern: made(out, pattern) for pattern in ("dataset.json", "scores/**/*", "wide/**/*")}


CLASS_FILES = {"dup.txt": "cat\ndog\ncat\n", "empty.txt": "", "one.txt": "cat\n", "two.txt": "a\nb"}


@pytest.mark.parametrize(
    ("scorers", "more", "message"),
    [
        ("ood.msp", ["--classes", "nosuch"], "classes 'nosuch' is neither a file nor a bundled"),
        ("ood.msp", ["--classes", "dup.txt"], "class name 'cat' is given twice, as line 1 of"),
        ("ood.msp", ["--classes", "empty.txt"], "empty.txt are none; name one class at least"),
        ("ood.margin", ["--classes", "one.txt"], "ood.margin needs 2 classes at least"),
        ("ood.pnorm", ["--classes", "two.txt"], "ood.pnorm needs 3 classes at least"),
        ("ood.msp", ["--templates", "two.txt"], "has no {}; put {} where the class is to stand"),
        ("ood.clipn", [], "scorer ood.clipn needs the vectors of what each class is not"),
        ("ood.msp", ["--option", "ood.colour=3"], "that is asked for has an option colour"),
        ("ood.msp", ["--option", "ood.vim.dim=3"], "options were given for ood.vim"),
        ("ood.vim", [], "scorer ood.vim learns of 7"),
        ("ood.vim,ood.knn,ood.msp", ["--refit"], "scorer ood.vim learns of 7"),
        ("ood.vim", ["--learn-on", "nosuch"], "nosuch holds no clipsieve dataset"),
    ],
)
def test_what_cannot_be_scored_is_said_and_changes_nothing(
    finished, tmp_path, monkeypatch, capsys, scorers, more, message
):
    for name, text in CLASS_FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    before = state_of(finished)
    capsys.readouterr()
    assert exit_code(["score", str(finished), "--scorers", scorers, *more, *DEVICE]) == 2
    errors = capsys.readouterr().err
    last = errors.splitlines()[-1]
    assert last.startswith("clipsieve: ") and message in last
    assert "while running" not in last and "Traceback" not in errors
    assert state_of(finished) == before
    assert not list(finished.glob("fits/ood.vim/*.npz"))


def test_workers_end_with_the_message_of_a_scorer_that_cannot_learn(finished):
    before = state_of(finished)
    words = ["score", str(finished), "--scorers", "ood.vim", "--workers", "2", *DEVICE]
    with start(words) as process:
        _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith("clipsieve: scorer ood.vim learns of 7")
    assert errors.splitlines()[-1].endswith("such as ood.mcm")
    assert "Traceback" not in errors
    assert state_of(finished) == before


@pytest.mark.parametrize("scorer", ["ood.knn", "ood.anomaly"])
def test_a_scorer_without_classes_can_be_asked_for_alone(embedded, tmp_path, scorer):
    out = copy_of(embedded, tmp_path / "out")
    assert exit_code(["score", out.root, "--scorers", scorer, *DEVICE]) == 0
    family = out.require_manifest().families["ood"]
    assert (list(family.scorers), family.options) == ([scorer], {})
    assert exit_code(["score", out.root, "--scorers", "ood.class", *DEVICE]) == 0
    family = out.require_manifest().families["ood"]
    assert (set(family.scorers), family.options) == ({scorer, "ood.class"}, {"classes": "demo"})


# Labels


LABELLED = {"p": 500, "q": 300}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, tiny):
    """A folder with labels as names, as numbers, and under the name of a ledger's column."""
    rng = np.random.default_rng(4)
    shards, numbers = [], {}
    for at, (name, rows) in enumerate(LABELLED.items()):
        numbers[name] = rng.integers(-1, 3, rows)  # -1 is no label
        texts = [["star", "tree", "birthday cake", None][k] for k in numbers[name]]
        texts[0] = "nonsense"
        numbers[name][0] = -1
        carried = pa.table(
            {
                "label": texts,
                "number": pa.array([int(k) if k >= 0 else 9 for k in numbers[name]]),
                "source_status": texts,
            }
        )
        shards.append(make_shard(name, rows, 20 + at, no_image=[2], carried=carried, dim=DIM))
    return Path(make_folder(tmp_path_factory.mktemp("l") / "out", shards, tiny).root), numbers


@pytest.mark.parametrize("column", ["label", "number", "status"])
def test_classes_are_learnt_of_a_column_of_labels(labelled, three, tmp_path, column):
    source, numbers = labelled
    folder = copy_of(source, tmp_path / "out")
    words = ["score", folder.root, "--scorers", "ood.mahalanobis", "--classes", str(three)]
    assert exit_code([*words, "--option", f"ood.labels={column}", *DEVICE]) == 0
    family = folder.require_manifest().families["ood"]
    assert family.options["labels"] == column

    unit, labels = unit_vectors(tmp_path / "out"), np.concatenate([numbers[s] for s in LABELLED])
    valid = ~np.isnan(unit[:, 0])
    rows, classes = unit[valid & (labels >= 0)], labels[valid & (labels >= 0)]
    means = np.array([rows[classes == k].mean(axis=0) for k in range(3)])
    apart = rows - means[classes]
    precision = np.linalg.inv(apart.T @ apart / len(rows))
    learned = family.scorers["ood.mahalanobis"].learned
    known = folder.read_arrays(f"fits/ood.mahalanobis/{learned}.npz")
    assert known["counts"].tolist() == np.bincount(classes).tolist()
    assert int(known["unlabelled"]) == int((valid & (labels < 0)).sum()) > 0
    assert np.allclose(known["factor"] @ known["factor"].T, precision, rtol=1e-8, atol=1e-6)
    assert np.allclose((means - known["centre"]) @ known["factor"], known["means"], atol=1e-9)
    offset = unit[:, None] - means
    distance = np.einsum("nkd,de,nke->nk", offset, precision, offset).min(axis=1)
    got = read(tmp_path / "out", "wide")["ood_mahalanobis"].to_numpy()
    assert np.allclose(got, distance, rtol=1e-5, equal_nan=True)
