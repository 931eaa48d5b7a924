"""A sample of every kind of case; `benchmarks/faults.py` does thousands of the same.

A failing case is made again with `python benchmarks/faults.py --kind KIND --case NUMBER`.
"""

import sys

import pytest

from tests.faults import inputs, storage
from tests.faults.kinds import KINDS
from tests.faults.lab import Lab
from tests.faults.outcome import LOST

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, sessions, /proc")
#: Numbers of the cases that every run of the tests does, each for its own sake.
CASES = {
    "kills": (0, 1, 2, 3, 4, 5, 6, 7, 8),
    "storage": (1, 2, 3, 4, 5, 6, 12),
    "rot": (1, 2, 3, 4, 8, 9, 10, 13),
    "inputs": (0, 1, 3, 11, 19),
    "names": (1, 2, 4),
    "terminal": (1,),
    "hostile": (0, 1, 7, 9, 15, 16),
}
#: Pictures in a case of mutated ones.
PICTURES = 200


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """One place for all cases, with one fork server."""
    place = Lab(tmp_path_factory.mktemp("lab"))
    yield place
    storage.unmount_all(place.folder)
    place.close()


@pytest.mark.parametrize(
    ("kind", "number"), [(kind, number) for kind, numbers in CASES.items() for number in numbers]
)
def test_nothing_is_lost_and_all_is_explained(lab, kind, number):
    if kind == inputs.KIND:
        outcome = inputs.run(lab, number, PICTURES)
    else:
        outcome = KINDS[kind](lab, number)
    again = f"python benchmarks/faults.py --kind {kind} --case {number} --pictures {PICTURES}"
    lines = "\n  ".join(outcome.problems)
    assert not outcome.problems and LOST not in outcome.marks, f"{outcome.what}\n{again}\n  {lines}"
