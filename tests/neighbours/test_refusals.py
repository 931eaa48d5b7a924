"""What cannot be searched is refused with the value, the place and the cure."""

import numpy as np
import pytest

from clipsieve.errors import DeviceError, UsageError
from clipsieve.neighbours.index import ExactIndex, SearchOptions

GOOD = np.ones((20, 3), np.float32)


@pytest.mark.parametrize("k", [0, -3, 2.0, "4", True])
def test_k(k):
    with pytest.raises(UsageError, match=f"k must be an int of at least 1, got {k!r}"):
        ExactIndex(GOOD).search(GOOD, k)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_values_without_a_distance(bad, dtype):
    if dtype == np.float16 and bad == 2e30:
        pytest.skip("not a float16")
    vectors = np.ones((5000, 3), dtype)
    vectors[4500, 1] = bad
    with pytest.raises(UsageError, match=r"reference row 4600 holds .*leave such rows out"):
        ExactIndex(vectors, first=100)
    with pytest.raises(UsageError, match="query row 4500 holds"):
        ExactIndex(GOOD).search(vectors, 1)


def test_zero_vectors_have_no_cosine():
    vectors = np.ones((5000, 3), np.float32)
    vectors[4999] = 0
    with pytest.raises(UsageError, match="reference row 4999 is a zero vector"):
        ExactIndex(vectors, metric="cosine")
    with pytest.raises(UsageError, match="query row 4999 is a zero vector"):
        ExactIndex(GOOD, metric="cosine").search(vectors, 1)
    assert ExactIndex(vectors).search(vectors[-1:], 1).indices.tolist() == [[4999]]


@pytest.mark.parametrize(
    "vectors", [np.ones(3, np.float32), np.ones((2, 2, 2), np.float32), [[1.0]]]
)
def test_shapes(vectors):
    with pytest.raises(UsageError, match="must be an array of shape"):
        ExactIndex(vectors)
    with pytest.raises(UsageError, match="must be an array of shape"):
        ExactIndex(GOOD).search(vectors, 1)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, ">f4"])
def test_number_formats(dtype):
    with pytest.raises(UsageError, match="must be float16 or float32, got"):
        ExactIndex(GOOD.astype(dtype))


def test_widths():
    with pytest.raises(UsageError, match=r"\(20, 2\) do not fit a reference of 3 components"):
        ExactIndex(GOOD).search(GOOD[:, :2], 1)


@pytest.mark.parametrize("own", [np.zeros(19, int), np.zeros(20), np.zeros((20, 2, 1), int)])
def test_own_rows(own):
    with pytest.raises(UsageError, match=r"own must be integers of shape \(20,\) or \(20, E\)"):
        ExactIndex(GOOD).search(GOOD, 1, own)


def test_own_numbers():
    with pytest.raises(UsageError, match="own holds -2; use numbers of reference rows"):
        ExactIndex(GOOD).search(GOOD, 1, np.full(20, -2))


def test_metric():
    with pytest.raises(UsageError, match="metric 'dot' is not known; choose euclidean, cosine"):
        ExactIndex(GOOD, metric="dot")  # type: ignore[arg-type]


def test_first():
    with pytest.raises(UsageError, match="from number -1 cannot be indexed"):
        ExactIndex(GOOD, first=-1)


@pytest.mark.parametrize("name", ["query_rows", "reference_rows", "tile", "pairs"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_sizes(name, value):
    with pytest.raises(UsageError, match=f"{name} must be an int of at least 1 or None"):
        SearchOptions(**{name: value})


def test_tile_is_a_power_of_two():
    with pytest.raises(UsageError, match="tile must be a power of two or None, got 12"):
        SearchOptions(tile=12)


def test_dtype_and_device():
    with pytest.raises(UsageError, match="dtype 'float16' is not known here"):
        SearchOptions(dtype="float16")
    with pytest.raises((UsageError, DeviceError)):
        ExactIndex(GOOD, options=SearchOptions(device="tpu"))
