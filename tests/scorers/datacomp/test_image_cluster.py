"""DataComp's image-based filter against a plain argmax; what is refused."""

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Context, Embedded, PairBatch
from clipsieve.scorers.datacomp.image_cluster import ImageCluster, target_clusters
from clipsieve.store.pairs import split_batch

DIM = 12
CONTEXT = Context(DIM, 0, 100.0)


@pytest.fixture(scope="module")
def centroids():
    """As of k-means on unit vectors: of different lengths, all below 1."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, DIM)) * rng.uniform(0.05, 0.25, size=(40, 1))
    return vectors.astype(np.float32)


def unit(rows, seed):
    vectors = np.random.default_rng(seed).normal(size=(rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write(folder, name, array):
    np.save(folder / f"{name}.npy", array)
    return str(folder / f"{name}.npy")


def scores(scorer, vectors, missing=(), rows=1000):
    valid = ~np.isin(np.arange(len(vectors)), list(missing))
    image = Embedded(np.where(valid[:, None], vectors, 0).astype(np.float32), valid)
    batch = PairBatch(pa.array([str(at) for at in range(len(vectors))]), image)
    loaded = scorer.load({}, CONTEXT)
    parts = [scorer.score(part, loaded) for part in split_batch(batch, rows)]
    names = scorer.columns.names
    return [np.concatenate([part[name] for part in parts]).tolist() for name in names]


def test_clusters_are_those_of_the_largest_inner_product(tmp_path, centroids):
    images, targets = unit(300, 1), unit(5, 2)
    scorer = ImageCluster(
        write(tmp_path, "centroids", centroids), write(tmp_path, "targets", targets)
    )
    clusters, is_target = scores(scorer, images * 7.5, missing=[0, 299])
    expected = [max(range(40), key=lambda k: float(v @ centroids[k])) for v in images]
    aimed = {max(range(40), key=lambda k: float(v @ centroids[k])) for v in targets}
    assert clusters == [None, *expected[1:-1], None]
    assert is_target == [None, *(each in aimed for each in expected[1:-1]), None]
    assert 0 < sum(is_target[1:-1]) < 200
    assert scores(scorer, images * 7.5, missing=[0, 299], rows=7) == [clusters, is_target]


def test_it_is_not_the_nearest_centroid(tmp_path):
    """An image close to a short centroid belongs to a long one."""
    centroids = np.zeros((2, DIM), np.float32)
    centroids[0, 0], centroids[1, :2] = 0.5, (0.8, 0.8)
    image = np.zeros((1, DIM), np.float32)
    image[0, :2] = 0.995, 0.0999
    assert np.linalg.norm(centroids - image, axis=1).argmin() == 0
    paths = write(tmp_path, "centroids", centroids), write(tmp_path, "targets", image)
    assert scores(ImageCluster(*paths), image) == [[1], [True]]
    numbers = write(tmp_path, "numbers", np.array([0]))
    assert scores(ImageCluster(paths[0], target_clusters=numbers), image) == [[1], [False]]


def test_target_clusters_are_those_of_the_targets(tmp_path, centroids):
    targets = np.repeat(unit(4, 3), 1200, axis=0)
    numbers = target_clusters(centroids, targets)
    assert numbers.tolist() == sorted({int((centroids @ v).argmax()) for v in unit(4, 3)})
    assert target_clusters(centroids, targets[:0]).tolist() == []
    path, images = write(tmp_path, "centroids", centroids), unit(100, 4)
    one = ImageCluster(path, targets=write(tmp_path, "targets", targets.astype(np.float64)))
    for name, given in (("n", numbers), ("u", numbers.astype(np.uint16)), ("i", numbers[::-1])):
        other = ImageCluster(path, target_clusters=write(tmp_path, name, given))
        assert scores(one, images) == scores(other, images)
    none = ImageCluster(path, target_clusters=write(tmp_path, "none", numbers[:0]))
    assert scores(none, images)[1] == [False] * 100


def test_equal_centroids_give_the_first(tmp_path):
    centroids = np.ones((5, DIM), np.float16)
    path = write(tmp_path, "centroids", centroids)
    scorer = ImageCluster(path, target_clusters=write(tmp_path, "numbers", np.array([0])))
    assert scores(scorer, np.ones((3, DIM))) == [[0] * 3, [True] * 3]


def test_the_content_of_the_files_decides_the_revision(tmp_path, centroids):
    one, same = (write(tmp_path, name, centroids) for name in "ab")
    other, targets = write(tmp_path, "c", centroids * 2), write(tmp_path, "t", centroids[:2])
    numbers = write(tmp_path, "n", np.array([1]))
    first = ImageCluster(one, targets).parameters()
    assert first == ImageCluster(same, targets).parameters()
    assert first != ImageCluster(other, targets).parameters()
    assert set(first) == {"centroids", "targets"}
    assert set(ImageCluster(one, target_clusters=numbers).parameters()) == {
        "centroids",
        "target_clusters",
    }


def test_options_that_are_missing_are_refused():
    with pytest.raises(UsageError, match=r"datacomp.image_cluster needs the centroids of clusters"):
        ImageCluster()
    for wrong in ({}, {"targets": "t", "target_clusters": "n"}):
        with pytest.raises(UsageError, match="needs a target set, either as option targets or"):
            ImageCluster("c", **wrong)


def test_files_that_cannot_be_used_are_refused(tmp_path, centroids):
    good, number = write(tmp_path, "c", centroids), write(tmp_path, "n", np.array([1]))
    (tmp_path / "text.npy").write_text("no array")
    not_finite, zero = centroids.copy(), centroids.copy()
    not_finite[3, 2], zero[5] = np.nan, 0

    def refused(match, centroids=good, **targets):
        with pytest.raises(UsageError, match=match):
            ImageCluster(centroids, **(targets or {"target_clusters": number})).load({}, CONTEXT)

    refused("cannot be read", str(tmp_path / "nothing.npy"))
    refused(r"text.npy is no .npy file", str(tmp_path / "text.npy"))
    refused("must be a matrix of floating-point numbers", number)
    refused("must be a matrix", write(tmp_path, "e", centroids[:0]))
    refused(
        r"shape \(40, 11\), and the model's embeddings have 12",
        write(tmp_path, "d", centroids[:, 1:]),
    )
    refused("row 3 holds a number that is not finite as float32", write(tmp_path, "f", not_finite))
    refused("row 0 holds a number", write(tmp_path, "h", np.full((1, DIM), 1e300)))
    refused("z.npy: row 5 is zero", targets=write(tmp_path, "z", zero))
    refused("must be a list of integers", target_clusters=good)
    refused(
        "names cluster 40, and there are 40",
        target_clusters=write(tmp_path, "o", np.array([1, 40])),
    )
    refused("names cluster -1", target_clusters=write(tmp_path, "p", np.array([-1])))
