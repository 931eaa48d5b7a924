"""A fit is made of all shards or not at all, and does not depend on how they are added up."""

import numpy as np
import pytest

from clipsieve.fits.job import FitJob, Sums
from clipsieve.fits.store import FitFolder, fit_id, fit_meaning, scored_rows
from clipsieve.scorers.registry import scorers_named
from clipsieve.transforms.merge import MergeStatistics
from tests.fits.folders import make_pairs
from tests.store.folders import DIM
from tests.transforms.combining import combined_every_way

OPTIONS = {"density": {"reference": "20", "k": 3, "lid_k": 5}}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A fit that has begun, of four shards."""
    layout, dataset, pairs = make_pairs(tmp_path_factory.mktemp("pairs"))
    (scorer,) = scorers_named(["density"], OPTIONS)
    members = pairs.members()
    fit = fit_id(fit_meaning(scorer, dataset.embeddings["rev"]), members)
    FitFolder.of(layout, "density", fit).begin(scorer, members)
    where = dataset.embeddings
    fits, rows = {"density": fit}, scored_rows(members)
    return FitJob(str(layout.root), ("density",), OPTIONS, fits, DIM, where, "cpu", rows)


def test_members_are_written_and_read_as_they_are(job):
    assert job.folder("density").members() == job.pairs.members()


def test_a_fit_of_some_shards_is_not_kept(job):
    some = sum((job.observe(shard) for shard in job.pairs.shards()[1:]), Sums())
    assert not job.finish(some)
    assert not job.folder("density").is_complete


def test_any_split_and_order_keeps_the_same_arrays(job):
    observed = [job.observe(shard) for shard in job.pairs.shards()]
    kept = []
    for sums in combined_every_way(MergeStatistics(Sums()), observed):
        assert job.finish(sums)
        kept.append(job.folder("density").load())
    assert len(kept) == 12
    for arrays in kept:
        assert arrays.keys() == kept[0].keys() >= {"20.k_distance", "20.lid", "20.images"}
        assert all(np.array_equal(arrays[name], kept[0][name]) for name in arrays)


def test_another_shard_or_parameter_is_another_fit(job):
    members = job.pairs.members()
    one, other = (scorers_named(["density"], {"density": {"k": k}})[0] for k in (3, 4))
    ids = {fit_id(fit_meaning(s, "rev"), m) for s in (one, other) for m in (members, members[1:])}
    assert len(ids) == 4
    assert fit_meaning(one, "rev") != fit_meaning(one, "other")
