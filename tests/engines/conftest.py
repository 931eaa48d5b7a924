"""Engines that are started once for the session, and the place where output goes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines import clusters
from tests.engines.clusters import Cluster
from tests.pipelines.test_workers import DECODER


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """A folder with a JPEG decoder that crashes on one picture; workers find it first."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "simplejpeg.py").write_text(DECODER)
    return Path(folder)


@pytest.fixture(scope="session")
def portable(server, site, tmp_path_factory) -> Iterator[Cluster]:
    """A Beam job service, and workers of a pool."""
    with clusters.job_service(tmp_path_factory.mktemp("portable"), site) as started:
        yield started


@pytest.fixture(scope="session")
def dask(server, site, tmp_path_factory) -> Iterator[Cluster]:
    """Dask with two worker processes."""
    with clusters.dask(tmp_path_factory.mktemp("dask"), site) as started:
        yield started


@pytest.fixture(params=["portable", "dask"])
def cluster(request) -> Cluster:
    """Each engine with workers in processes of their own."""
    started: Cluster = request.getfixturevalue(request.param)
    return started


@pytest.fixture(params=["folder"])
def place(request, tmp_path) -> Callable[[str], str]:
    """Return what names an output folder there that does not exist yet."""
    return lambda name: str(tmp_path / name)
