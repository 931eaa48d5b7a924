"""An output folder with every score that recipes read, and its rows."""

import numpy as np
import pytest

import clipsieve
from tests.sql.folders import make_scored_folder


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return make_scored_folder(tmp_path_factory.mktemp("recipes") / "it's out")


@pytest.fixture(scope="session")
def columns(made):
    """Columns of all rows as NumPy arrays, NaN for NULL."""
    relation = clipsieve.connect(made[0].root).sql("FROM scores ORDER BY shard, row")
    table = dict(zip(relation.columns, zip(*relation.fetchall(), strict=True), strict=True))
    numbers = ("clip_score", "density_kdist", "ood_msp")
    return {
        name: np.array(values, np.float32) if name in numbers else np.array(values, object)
        for name, values in table.items()
    }


@pytest.fixture(scope="session")
def answer(made):
    """Rows of a recipe as dictionaries."""

    def run(name, **parameters):
        relation = clipsieve.sql_recipe(made[0].root, name, **parameters)
        return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]

    return run
