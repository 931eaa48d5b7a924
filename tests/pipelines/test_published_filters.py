"""SemDeDup and DataComp's filters over whole folders: workers, later shards, options as files."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsieve.errors import UsageError
from clipsieve.pipelines.engine import BeamEngine
from clipsieve.store.folder import OutputFolder
from tests.pipelines.jobs import exit_code, manifest_of, read, run_job, write_one
from tests.scoring.folders import (
    MODEL,
    InProcess,
    make_folder,
    make_shard,
    pairs_of,
    score_folder,
)

SEMDEDUP = "duplicates.semdedup"
DEVICE = ("--device", "cpu")
MODEL_128 = replace(MODEL, dim=128)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two shards, and a third with the rows of the first."""
    folder = tmp_path_factory.mktemp("source")
    path = write_one(folder, "a", 40, seed=1)
    write_one(folder, "b", 30, seed=2)
    shutil.copy(path, folder / "c.parquet")
    return folder


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    run_job(source, out, scorers="clip")
    return out


@pytest.fixture
def out(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "out"))


def score(out, *words):
    return exit_code(["score", str(out), *words, *DEVICE])


def made(out, family):
    """Bytes of a family's files and of what its scorers learnt."""
    patterns = (f"scores/{family}/*/*.parquet", f"fits/{family}*/*")
    files = [path for pattern in patterns for path in sorted(out.glob(pattern))]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def columns_of(out, family):
    revision = manifest_of(out).families[family].revision
    files = sorted((out / f"scores/{family}/rev={revision}").glob("*.parquet"))
    return {path.stem: pq.read_table(path).to_pydict() for path in files}


def test_of_rows_that_are_there_twice_one_is_kept(out):
    assert score(out, "--scorers", SEMDEDUP, "--option", f"{SEMDEDUP}.clusters=3") == 0
    shards = columns_of(out, "duplicates")
    first, second = shards["a"], shards["c"]
    has_image = [cluster is not None for cluster in first["semdedup_cluster"]]
    assert sum(has_image) > 30
    assert first["semdedup_cluster"] == second["semdedup_cluster"]
    assert first["semdedup_centroid_cosine"] == second["semdedup_centroid_cosine"]
    for row in np.flatnonzero(has_image).tolist():
        # Of one uid and picture, the shard that is first by name comes first.
        assert second["semdedup_similarity"][row] > 0.999
        assert second["semdedup_keep"][row] is False
    assert any(first["semdedup_keep"])
    wide = read(out, "wide")
    assert wide["semdedup_keep"].null_count == wide["semdedup_cluster"].null_count


class TwoWorkers:
    """Runs the last pass of learning and the scores in two processes, the rest in this one."""

    is_local = True

    def __init__(self):
        self.ran = []

    def run(self, stage, elements, here=False):
        """Run a stage."""
        self.ran.append(stage.name)
        return BeamEngine(workers=2 if len(self.ran) > 2 else 1).run(stage, elements, here)


def test_two_workers_make_the_bytes_of_one(out, tmp_path):
    other, engine = shutil.copytree(out, tmp_path / "other"), TwoWorkers()
    options = {SEMDEDUP: {"clusters": 4}}
    score_folder(OutputFolder.open(out), [SEMDEDUP], options)
    score_folder(OutputFolder.open(other), [SEMDEDUP], options, engine)
    assert engine.ran == ["learn", "learn", "learn", "score"]
    assert len(made(out, "duplicates")) == 5
    assert made(out, "duplicates") == made(other, "duplicates")


def test_a_stopped_pass_is_done_again_and_many_passes_make_the_bytes_of_one(tmp_path):
    shards = [make_shard(name, 900, at, no_image=[7], dim=128) for at, name in enumerate("abc")]
    whole, parts = (make_folder(tmp_path / name, shards, MODEL_128) for name in ("one", "many"))
    score_folder(whole, [SEMDEDUP], {SEMDEDUP: {"clusters": 30}})
    small = {SEMDEDUP: {"clusters": 30, "memory_mib": 1}}
    engine = InProcess(stop_in=3, stop_after=1)
    assert score_folder(parts, [SEMDEDUP], small, engine).left
    assert score_folder(parts, [SEMDEDUP], small, engine).left == 0
    # Sample, clusters, four groups, of which the second was stopped, and scores.
    assert [name for name, _ in engine.ran] == [*["learn"] * 7, "score"]
    one, many = (made(Path(folder.root), "duplicates") for folder in (whole, parts))
    assert len(one) == 5 and one == many


def test_later_shards_have_no_similarity_until_all_is_learnt_again(out, tmp_path):
    score(out, "--scorers", SEMDEDUP)
    write_one(tmp_path / "more", "d", 20, seed=4)
    run_job(tmp_path / "more", out, scorers="clip")
    later = columns_of(out, "duplicates")["d"]
    assert set(later["semdedup_keep"]) == {None} == set(later["semdedup_similarity"])
    assert sum(cluster is not None for cluster in later["semdedup_cluster"]) > 10
    assert score(out, "--scorers", SEMDEDUP, "--refit") == 0
    healed = columns_of(out, "duplicates")["d"]
    assert [keep is None for keep in healed["semdedup_keep"]] == [
        cluster is None for cluster in later["semdedup_cluster"]
    ]


def test_clusters_of_given_centroids(out, tmp_path, monkeypatch):
    pairs = pairs_of(OutputFolder.open(out))
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(12, pairs.dim)).astype(np.float32) * rng.uniform(0.5, 2, (12, 1))
    np.save(tmp_path / "centroids.npy", centroids.astype(np.float32))
    images: dict[str, Any] = {shard: pairs.read(shard, frozenset()).image for shard in "abc"}
    np.save(tmp_path / "targets.npy", images["b"].vectors[images["b"].valid][:2])
    monkeypatch.chdir(tmp_path)
    config = Path("job.toml")
    config.write_text('[scorer_options."datacomp.image_cluster"]\ncentroids = "centroids.npy"\n')
    words = ("--scorers", "datacomp.image_cluster", "--config", str(config))
    option = "--option", "datacomp.image_cluster.targets=targets.npy"
    assert score(out, *words, *option) == 0
    rounded = centroids.astype(np.float32).astype(np.float64)
    expected = {shard: (image.unit() @ rounded.T).argmax(axis=1) for shard, image in images.items()}
    aimed = set(expected["b"][images["b"].valid][:2].tolist())
    for shard, columns in columns_of(out, "datacomp").items():
        valid = images[shard].valid
        clusters = [int(k) if ok else None for k, ok in zip(expected[shard], valid, strict=True)]
        assert columns["image_cluster"] == clusters
        assert columns["image_cluster_is_target"] == [
            k if k is None else k in aimed for k in clusters
        ]
    recorded = manifest_of(out).families["datacomp"].scorers["datacomp.image_cluster"].options
    assert recorded["targets"]["path"] == str(tmp_path / "targets.npy")

    # Later shards are scored from files that must be as they were.
    np.save(tmp_path / "targets.npy", centroids[:1].astype(np.float32))
    write_one(tmp_path / "more", "d", 20, seed=4)
    with pytest.raises(UsageError, match=r"targets.npy has changed since it was given"):
        run_job(tmp_path / "more", out, scorers="clip")
    np.save(tmp_path / "numbers.npy", np.array(sorted(aimed)))
    before = [t["image_cluster_is_target"] for t in columns_of(out, "datacomp").values()]
    option = "--option", "datacomp.image_cluster.target_clusters=numbers.npy"
    assert score(out, *words, *option) == 0
    after = [t["image_cluster_is_target"] for t in columns_of(out, "datacomp").values()]
    assert (after[:3], len(after)) == (before, 4)


def test_captions_with_a_word(out, tmp_path, capsys):
    captions = {
        path.stem: pq.read_table(path)["caption"].to_pylist()
        for path in (out / "samples").glob("*.parquet")
    }
    words = sorted(
        {token for texts in captions.values() for t in texts if t for token in t.split()}
    )
    chosen = words[::7]
    (tmp_path / "words.txt").write_text("\n".join(chosen), encoding="utf-8")
    option = f"datacomp.text_words.words={tmp_path / 'words.txt'}"
    assert score(out, "--scorers", "datacomp.text_words", "--option", option) == 0
    for shard, columns in columns_of(out, "datacomp").items():
        expected = [
            None if text is None else any(token in chosen for token in text.split())
            for text in captions[shard]
        ]
        assert columns["caption_has_word"] == expected
    assert score(out, "--scorers", "datacomp.image_cluster") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("clipsieve: scorer datacomp.image_cluster needs the centroids")
    option = f"datacomp.text_words.words={tmp_path / 'nothing'}"
    assert score(out, "--scorers", "datacomp.text_words", "--option", option) == 2
    assert "nothing cannot be read" in capsys.readouterr().err.splitlines()[-1]


def test_rows_that_do_not_fit_are_refused_before_anything_is_written(out, capsys):
    before = made(out, "duplicates")
    options = ("--option", f"{SEMDEDUP}.clusters=200")
    assert score(out, "--scorers", SEMDEDUP, *options) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "is to make 200 clusters of a sample of" in last and "Traceback" not in last
    assert {name for name in made(out, "duplicates") if name.endswith(".npz")} == set(before)
