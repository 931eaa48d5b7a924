"""Fixtures: values that the authors' own code gave for 600 training and 24 test images."""

from pathlib import Path

import numpy as np
import pytest

from tests.scorers.ood.learning import AsGiven, pairs

ORACLE = Path(__file__).resolve().parents[2] / "data" / "ood_learnt.npz"


@pytest.fixture(scope="session")
def oracle():
    with np.load(ORACLE) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def train(oracle):
    return pairs(oracle["Xtr"], oracle["T"], oracle["ytr"].tolist(), kind=AsGiven)


@pytest.fixture(scope="session")
def test(oracle):
    vectors = np.concatenate([oracle["Xid"], oracle["Xood"]])
    return pairs(vectors, oracle["T"], kind=AsGiven, shard="t")
