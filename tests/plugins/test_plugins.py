"""Scorers of another package: installed, found by entry point, learnt, scored, killed, resumed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import clipsieve
from clipsieve import connect
from clipsieve.clip.encode import Encoder
from clipsieve.clip.model import load_model, logit_scale
from clipsieve.demo.shards import write_shards
from clipsieve.store.folder import OutputFolder
from clipsieve.store.names import embeddings_folder
from clipsieve.store.pairs import embedded_from_table

HERE = Path(__file__).parent
NAMES = "photo,mahalanobis,zeroshot"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process that has the small package installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    shutil.copytree(HERE, source / "package", ignore=shutil.ignore_patterns("__pycache__"))
    words = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
    command = [sys.executable, "-m", "pip", *words, str(source / "package")]
    subprocess.run(command, check=True, capture_output=True)
    path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """A folder with embeddings and no other scores."""
    folder = tmp_path_factory.mktemp("plugins")
    write_shards(folder / "source", rows=240, shards=6, seed=3)
    inputs = str(folder / "source" / "*.parquet")
    common = {"model": "tiny", "device": "cpu", "dtype": "float32", "threads": 2}
    clipsieve.run(inputs, folder / "out", scorers=("clip",), **common)
    return folder / "out"


@pytest.fixture(scope="module")
def scored(embedded, installed):
    """A copy of it with the scores of all plug-ins."""
    out = embedded.with_name("scored")
    shutil.copytree(embedded, out)
    score(out, installed)
    return out


@pytest.fixture
def out(embedded, tmp_path):
    """A copy of the folder without them."""
    shutil.copytree(embedded, tmp_path / "out")
    return tmp_path / "out"


def score_command(out, *options):
    words = ["score", str(out), "--scorers", NAMES, "--device", "cpu", "--run-id", "same"]
    return [sys.executable, "-m", "clipsieve.cli", *words, *options]


def score(out, env, *options):
    done = subprocess.run(
        score_command(out, *options), env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def score_files(out):
    """Bytes of the plug-ins' files and of the wide table."""
    paths = sorted([*(out / "scores").rglob("*.parquet"), *(out / "wide").rglob("*.parquet")])
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def vectors(out):
    """Unit image vectors of all rows, in the order of shards; NaN where there are none."""
    entry = OutputFolder.open(out).require_manifest().embeddings
    assert entry is not None
    paths = sorted((out / embeddings_folder(entry.model, entry.revision)).glob("*.parquet"))
    parts = [embedded_from_table(pq.read_table(p, partitioning=None), "image", 128) for p in paths]
    raw = np.concatenate([part.vectors for part in parts]).astype(np.float64)
    valid = np.concatenate([part.valid for part in parts])
    raw[~valid] = np.nan
    return raw / np.linalg.norm(raw, axis=1, keepdims=True), valid


def column(out, name):
    """A column of the `scores` view, in the order of shards and rows."""
    rows = connect(str(out)).sql(f"SELECT {name} FROM scores ORDER BY shard, row").fetchall()
    return [value for (value,) in rows]


def test_plugins_are_scored_as_their_formulas_say(scored):
    out = scored
    unit, valid = vectors(out)
    model = load_model("tiny", None, torch.device("cpu"), "float32")
    encoder = Encoder(model)

    text = encoder.encode_texts(["a photo of a star"])[0].astype(np.float64)
    expected = unit @ (text / np.linalg.norm(text))
    photo = np.array(column(out, "photo_cosine"), float)
    assert np.allclose(photo, expected, atol=1e-6, equal_nan=True)
    assert np.isnan(photo).sum() == (~valid).sum() > 0

    present = unit[valid]
    covariance = np.cov(present.T, bias=True) + 1e-3 * np.eye(128)
    offset = present - present.mean(axis=0)
    distance = np.sqrt(np.einsum("nd,de,ne->n", offset, np.linalg.inv(covariance), offset))
    measured = np.array(column(out, "mahalanobis_distance"), float)[valid]
    assert np.allclose(measured, distance, rtol=1e-5)
    ratio = np.array(column(out, "mahalanobis_ratio"), float)[valid]
    assert np.allclose(ratio, distance / distance.mean(), rtol=1e-5)

    prototypes = []
    for name in ("star", "tree", "cake", "house"):
        texts = encoder.encode_texts([f"a photo of a {name}.", f"clip art of a {name}"])
        each = texts.astype(np.float64) / np.linalg.norm(texts, axis=1, keepdims=True)
        mean = each.mean(axis=0)
        prototypes.append(mean / np.linalg.norm(mean))
    logits = logit_scale(model) * present @ np.array(prototypes).T
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probability = np.array(column(out, "zeroshot_probability"), float)[valid]
    assert np.allclose(probability, odds.max(axis=1), rtol=1e-4)
    names = np.array(["star", "tree", "cake", "house"])[odds.argmax(axis=1)]
    classes = np.array(column(out, "zeroshot_class"), object)
    assert classes[valid].tolist() == names.tolist()
    assert (classes[~valid] == None).all()  # noqa: E711


def test_plugins_stand_in_the_scores_view_with_their_documentation(scored):
    out = scored
    manifest = OutputFolder.open(out).require_manifest()
    assert manifest.wide is not None
    (path,) = (out / "wide" / f"build={manifest.wide.build}").glob("*.parquet")
    metadata = pq.read_schema(path).field("photo_cosine").metadata
    assert metadata[b"doc"] == b"cosine of the image with a text"
    assert metadata[b"scorer"] == b"photo"
    described = connect(str(out)).sql(
        "SELECT column_name, scorer, type, doc FROM score_columns "
        "WHERE family IN ('photo', 'mahalanobis', 'zeroshot') ORDER BY 1"
    )
    assert described.fetchall() == [
        (
            "mahalanobis_distance",
            "mahalanobis",
            "float",
            "distance to the mean of all images",
        ),
        (
            "mahalanobis_ratio",
            "mahalanobis",
            "float",
            "the same as a multiple of the average distance",
        ),
        ("photo_cosine", "photo", "float", "cosine of the image with a text"),
        ("zeroshot_class", "zeroshot.softmax", "string", "the likeliest class"),
        ("zeroshot_probability", "zeroshot.softmax", "float", "of the likeliest class"),
    ]


def test_a_killed_job_of_two_workers_is_resumed_and_ends_as_one_worker_does(out, scored, installed):
    process = subprocess.Popen(
        score_command(out, "--workers", "2"),
        env=installed,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while len(list((out / "scores").glob("*/rev=*/*.parquet"))) <= 7:  # six are of family clip
        assert time.monotonic() < end
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list((out / "scores").glob("*/rev=*/*.parquet"))) < 24
    score(out, installed, "--workers", "2")
    files, others = score_files(scored), score_files(out)
    assert len(files) == len(others)
    for name in files:
        if "/photo/" in name or "/zeroshot/" in name:
            assert files[name] == others[name]
    for name in ("mahalanobis_distance", "mahalanobis_ratio"):
        # Sums over two workers may round differently.
        first, second = (np.array(column(folder, name), float) for folder in (scored, out))
        assert np.allclose(first, second, rtol=1e-6, equal_nan=True)
    assert not list(out.rglob("*.tmp-*"))


def test_the_same_command_again_does_nothing(scored, installed):
    out = scored
    before = {p: p.stat().st_mtime_ns for p in (out / "scores").rglob("*.parquet")}
    done = score(out, installed)
    assert "0 shards scored" in done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in (out / "scores").rglob("*.parquet")}


def test_what_was_learnt_and_encoded_is_kept(scored):
    out = scored
    assert len(list((out / "prompts").rglob("*.npz"))) == 2
    (learned,) = (out / "fits" / "mahalanobis").glob("*.npz")
    with np.load(learned) as arrays:
        assert sorted(arrays.files) == ["average", "mean", "precision"]
    schema = pq.read_schema(next((out / "scores" / "photo").rglob("*.parquet")))
    footers = {key: value for key, value in (schema.metadata or {}).items()}
    assert b"a photo of a star" not in b"".join(footers.values())
    assert pa.types.is_float32(schema.field("photo_cosine").type)
