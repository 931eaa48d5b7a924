"""What a driver imports of the search, and of the scorers that use it, leaves torch alone."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "clipsieve.neighbours.lists",
        "clipsieve.neighbours.metric",
        "clipsieve.neighbours.index",
        "clipsieve.scorers.density",
        "clipsieve.scorers.density_released",
        "clipsieve.scorers.isolation",
        "clipsieve.scorers.density_scorer",
    ],
)
def test_importing_does_not_import_torch(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'sklearn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
