"""The search finds what a full sort of all distances finds, to the last bit, whatever the data."""

import numpy as np
import pytest
import torch

from clipsieve.neighbours.index import ExactIndex, SearchOptions
from tests.neighbours.naive import naive_neighbours

FORMATS = ["float32", "bfloat16"]
SHAPES = [(300, 8, 5), (2000, 64, 16), (500, 1, 7), (4, 3, 16), (1, 33, 1), (700, 129, 64)]


def options(dtype, **sizes):
    return SearchOptions(device="cpu", dtype=dtype, **sizes)


def assert_exact(queries, rows, k, dtype, own=None, metric="euclidean", first=0, **sizes):
    index = ExactIndex(rows, first, metric, options(dtype, **sizes))
    lists = index.search(queries, k, own)
    distances, indices = naive_neighbours(queries, rows, k, own, metric, first)
    np.testing.assert_array_equal(lists.indices, indices)
    np.testing.assert_array_equal(lists.distances, distances)
    assert (lists.distances.dtype.name, lists.indices.dtype.name) == ("float32", "int64")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("rows, dim, k", SHAPES)
def test_random_vectors(rows, dim, k, dtype, metric):
    rng = np.random.default_rng(rows)
    reference = rng.normal(size=(rows, dim)).astype(np.float32)
    queries = rng.normal(size=(90, dim)).astype(np.float32)
    assert_exact(queries, reference, k, dtype, metric=metric)


@pytest.mark.parametrize("dtype", FORMATS)
def test_large_enough_for_a_pilot_and_several_blocks(dtype):
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(9000, 24)).astype(np.float32)
    queries = rng.normal(size=(60, 24)).astype(np.float32)
    assert_exact(queries, reference, 10, dtype)
    assert_exact(queries, reference, 10, dtype, reference_rows=2000, query_rows=17)
    assert_exact(queries, reference, 300, dtype, reference_rows=5000)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_distances_that_differ_far_below_the_precision_of_products(dtype, metric):
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(5, 32))
    reference = centres[rng.integers(0, 5, 3000)] + 1e-6 * rng.normal(size=(3000, 32))
    queries = centres[rng.integers(0, 5, 40)] + 1e-6 * rng.normal(size=(40, 32))
    assert_exact(queries.astype(np.float32), reference.astype(np.float32), 16, dtype, metric=metric)


@pytest.mark.parametrize("dtype", FORMATS)
def test_an_offset_much_larger_than_all_distances(dtype):
    rng = np.random.default_rng(3)
    reference = (100 + 0.01 * rng.normal(size=(6000, 40))).astype(np.float32)
    queries = (100 + 0.01 * rng.normal(size=(50, 40))).astype(np.float32)
    assert_exact(queries, reference, 16, dtype)
    assert_exact(queries, reference, 16, dtype, metric="cosine")


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e25])
def test_lengths_over_six_orders_of_magnitude(dtype, scale):
    rng = np.random.default_rng(4)

    def vectors(count):
        lengths = 10 ** rng.uniform(-3, 3, (count, 1))
        return (rng.normal(size=(count, 20)) * lengths * scale).astype(np.float32)

    assert_exact(vectors(60), vectors(7000), 16, dtype)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("distance", [1e6, 1e15, 1e29])
def test_queries_far_from_the_whole_reference(dtype, distance):
    rng = np.random.default_rng(5)
    reference = rng.normal(size=(5000, 16)).astype(np.float32)
    queries = (rng.normal(size=(20, 16)) * distance).astype(np.float32)
    assert_exact(queries, reference, 16, dtype)


@pytest.mark.parametrize("dtype", FORMATS)
def test_numbers_too_small_for_float32_squares(dtype):
    rng = np.random.default_rng(6)
    reference = (rng.normal(size=(800, 6)) * 1e-40).astype(np.float32)
    queries = np.concatenate([reference[:10], (rng.normal(size=(10, 6)) * 1e-3)]).astype(np.float32)
    assert np.any(reference)
    assert_exact(queries, reference, 9, dtype)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_equal_rows_are_found_in_order(dtype, metric):
    rng = np.random.default_rng(7)
    few = rng.normal(size=(40, 12)).astype(np.float32)
    reference = few[rng.integers(0, 40, 6000)]
    queries = np.concatenate([few, rng.normal(size=(20, 12)).astype(np.float32)])
    assert_exact(queries, reference, 16, dtype, metric=metric)
    assert_exact(queries, reference, 200, dtype, metric=metric, reference_rows=777, query_rows=13)


@pytest.mark.parametrize("dtype", FORMATS)
def test_all_rows_equal(dtype):
    reference = np.full((3000, 7), 0.3, np.float32)
    index = ExactIndex(reference, options=options(dtype, reference_rows=1000, pairs=100))
    lists = index.search(np.full((30, 7), [[0.25]], np.float32), 5, own=np.arange(30) % 4)
    for query, row in enumerate(lists.indices):
        assert row.tolist() == [n for n in range(6) if n != query % 4][:5]
    assert np.unique(lists.distances).tolist() == [np.float32(np.sqrt(7) * 0.05000001192092896)]


@pytest.mark.parametrize("dtype", FORMATS)
def test_ties_that_are_no_duplicates_across_blocks(dtype):
    rng = np.random.default_rng(8)
    reference = rng.integers(-2, 3, size=(4000, 5)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(60, 5)).astype(np.float32)
    for sizes in ({}, {"reference_rows": 333, "tile": 16}):
        assert_exact(queries, reference, 40, dtype, **sizes)


@pytest.mark.parametrize("dtype", FORMATS)
def test_ties_only_after_rounding_to_float32(dtype):
    """Distances differ in float64 in the wrong order, and are equal in float32."""
    reference = np.zeros((2000, 2), np.float32)
    reference[:, 0] = 1.0
    reference[:, 1] = np.linspace(2e-5, 1e-6, 2000)
    lists = ExactIndex(reference, options=options(dtype)).search(np.zeros((1, 2), np.float32), 50)
    exact = np.sqrt(1 + reference[:, 1].astype(np.float64) ** 2)
    assert len(np.unique(exact)) == 2000 and len(np.unique(exact.astype(np.float32))) == 1
    assert lists.indices[0].tolist() == list(range(50))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_only_own_rows_are_left_out_not_their_duplicates(dtype, metric):
    rng = np.random.default_rng(9)
    vectors = rng.normal(size=(2500, 10)).astype(np.float32)
    vectors[1000:2000] = vectors[:1000]
    own = np.arange(2500)
    assert_exact(vectors[:200], vectors, 6, dtype, own=own[:200], metric=metric)
    lists = ExactIndex(vectors, metric=metric, options=options(dtype)).search(vectors, 1, own)
    assert lists.indices[:1000, 0].tolist() == list(range(1000, 2000))
    assert lists.distances[:2000].max() == 0 < lists.distances[2000:].min()


def test_several_own_rows_and_numbers_of_other_parts():
    rng = np.random.default_rng(10)
    reference = rng.normal(size=(400, 6)).astype(np.float32)
    queries = reference[:90] + np.float32(0.01)
    own = np.stack([np.arange(90) + 1000, np.arange(90) + 1200, np.full(90, -1)], axis=1)
    own[5] = -1
    own[6] = [3, 999, 1400]
    assert_exact(queries, reference, 12, "float32", own=own, first=1000)


def test_all_rows_are_own():
    lists = ExactIndex(np.ones((2, 3), np.float32)).search(
        np.ones((1, 3), np.float32), 2, own=np.array([[0, 1]])
    )
    assert lists.indices.tolist() == [[-1, -1]]
    assert np.isinf(lists.distances).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_float16_and_read_only_memory_maps(tmp_path, metric):
    rng = np.random.default_rng(11)
    reference = rng.normal(size=(900, 30)).astype(np.float16)
    np.save(tmp_path / "reference.npy", reference)
    mapped = np.load(tmp_path / "reference.npy", mmap_mode="r")
    queries = rng.normal(size=(30, 30)).astype(np.float16)
    assert_exact(queries, mapped, 8, "bfloat16", metric=metric)


def test_arrays_that_are_not_contiguous():
    rng = np.random.default_rng(12)
    reference = rng.normal(size=(14, 900)).astype(np.float32).T[::2]
    queries = rng.normal(size=(40, 28)).astype(np.float32)[:, ::2]
    assert_exact(queries, reference, 8, "float32")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_result_depends_on_nothing_but_the_vectors(metric):
    rng = np.random.default_rng(13)
    centres = rng.normal(size=(30, 48)) + 2
    reference = (centres[rng.integers(0, 30, 5000)] + 0.1 * rng.normal(size=(5000, 48))).astype(
        np.float32
    )
    reference[2000:2500] = reference[:500]
    queries = np.concatenate([reference[rng.integers(0, 5000, 150)], reference[:50] * 1.5])
    queries = queries.astype(np.float32)
    ways = [
        {},
        {"query_rows": 1},
        {"query_rows": 64, "reference_rows": 11},
        {"reference_rows": 700},
        {"tile": 1, "pairs": 7},
        {"tile": 256, "reference_rows": 999, "pairs": 10_000},
    ]
    results = []
    for sizes in ways:
        for dtype in FORMATS:
            index = ExactIndex(reference, metric=metric, options=options(dtype, **sizes))
            count = 10 if sizes.get("query_rows") == 1 else 200
            results.append(index.search(queries[:count], 20))
    shuffled = rng.permutation(200)
    index = ExactIndex(reference, metric=metric, options=options("bfloat16"))
    again = index.search(queries[shuffled], 20)
    back = np.argsort(shuffled)
    for lists in results:
        count = len(lists)
        np.testing.assert_array_equal(lists.indices, results[0].indices[:count])
        assert lists.distances.tobytes() == results[0].distances[:count].tobytes()
    np.testing.assert_array_equal(again.indices[back], results[0].indices)
    assert again.distances[back].tobytes() == results[0].distances.tobytes()


def test_shorter_lists_are_beginnings_of_longer_ones():
    rng = np.random.default_rng(14)
    reference, queries = (rng.normal(size=(n, 9)).astype(np.float32) for n in (1500, 40))
    index = ExactIndex(reference)
    longest = index.search(queries, 1600)
    for k in (1, 2, 63, 1500):
        np.testing.assert_array_equal(index.search(queries, k).indices, longest.indices[:, :k])
    assert (longest.indices[:, 1500:] == -1).all() and np.isinf(longest.distances[:, 1500:]).all()


@pytest.mark.parametrize("rows, queries", [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_search(rows, queries):
    index = ExactIndex(np.zeros((rows, 4), np.float32))
    lists = index.search(np.zeros((queries, 4), np.float32), 3)
    assert lists.indices.shape == lists.distances.shape == (queries, 3)
    assert len(index) == rows
    if rows == 0:
        assert (lists.indices == -1).all() and np.isinf(lists.distances).all()


def test_vectors_without_components_are_all_equal():
    lists = ExactIndex(np.zeros((3, 0), np.float32)).search(np.zeros((2, 0), np.float32), 2)
    assert lists.indices.tolist() == [[0, 1], [0, 1]]
    assert lists.distances.tolist() == [[0, 0], [0, 0]]


def test_cosine_is_one_minus_cos():
    rng = np.random.default_rng(15)
    reference = rng.normal(size=(50, 20)).astype(np.float32)
    queries = rng.normal(size=(9, 20)).astype(np.float32)
    lists = ExactIndex(reference, metric="cosine").search(queries, 50)
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, reference))
    cosines = np.take_along_axis(one @ other.T, lists.indices, axis=1)
    np.testing.assert_allclose(lists.distances, 1 - cosines, atol=1e-6)


@pytest.fixture(params=["bf16", "tf32"])
def _coarse_products(request):
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = request.param
    yield
    matmul.fp32_precision = before


def test_products_that_may_round_float32_factors(_coarse_products):
    rng = np.random.default_rng(16)
    reference, queries = (rng.normal(size=(n, 64)).astype(np.float32) for n in (3000, 50))
    assert_exact(queries, reference, 16, "float32")


@pytest.mark.parametrize("shape", [(0,), (0, 2), None], ids=str)
def test_no_queries_have_no_lists(shape):
    own = None if shape is None else np.zeros(shape, np.int64)
    lists = ExactIndex(np.ones((3, 4), np.float32)).search(np.empty((0, 4), np.float32), 2, own)
    assert lists.distances.shape == lists.indices.shape == (0, 2)
