"""One small real job for all tests of exports; none of them changes it."""

from pathlib import Path
from typing import NamedTuple

import pytest

from clipsieve.demo.shards import write_shards
from tests.exports.subsets import make_subset
from tests.pipelines.jobs import run_job


class Job(NamedTuple):
    """Source shards, output folder, and a subset of it with rows of every state."""

    source: Path
    out: Path
    subset: str


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Return 120 rows in 3 shards, of which the subset `most` keeps three in four."""
    folder = tmp_path_factory.mktemp("exports")
    write_shards(folder / "source", 120, 3, seed=9)
    run_job(folder / "source", folder / "out", run_id="fixed")
    make_subset(folder / "out", "most", lambda row: row["row"] % 4 != 2)
    make_subset(folder / "out", "none", lambda row: False)
    return Job(folder / "source", folder / "out", "most")
