"""Fixtures that several tests share."""

import pytest

from tests.scorers.plugins import install
from tests.scoring.folders import make_folder, varied_shards
from tests.scoring.toys import CALLS, TOYS

__all__ = ["install"]


@pytest.fixture
def calls(install):
    """Install the toy scorers; what is asked of them, from zero."""
    install(TOYS)
    CALLS.clear()
    return CALLS


@pytest.fixture
def folder(tmp_path):
    """An output folder with four shards."""
    return make_folder(tmp_path / "out", varied_shards())
