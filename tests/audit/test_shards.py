"""What an audit reads of a folder, or why it does not."""

from hashlib import sha256

import numpy as np
import pytest

from clipsieve.audit.shards import AuditedShards
from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.store import names
from clipsieve.store.parquet import vectors
from tests.audit.folders import (
    COLUMN,
    REVISION,
    SIMILARITY,
    Row,
    direction,
    write_folder,
    write_scores,
)
from tests.store.folders import DIM, path_of

ROWS = [
    Row("a", 1.0, "one", direction(1), "http://x/a", similarity=0.25),
    Row("b", None, None, (), "http://x/b"),
    Row("c", 3.0, "three", [3.0 * x for x in direction(2, 0.5)], None, similarity=-0.5),
    Row("d", None, None, direction(3), "http://x/d"),
]
SCORES = names.scores("density", REVISION, "s")


def audited(folder):
    """The shards of a folder, with all its columns."""
    manifest = folder.require_manifest()
    revisions = manifest.revisions()
    families = {
        SIMILARITY: names.family_folder("clip", revisions["clip"]),
        COLUMN: names.family_folder("density", REVISION),
    }
    return AuditedShards(folder, manifest.embeddings, families)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "out", {"s": ROWS, "r": ROWS[:1]})


def test_columns_are_read_by_shard_and_row(folder):
    shards = audited(folder)
    assert shards.shards() == ["r", "s"]
    columns = shards.columns("s", [SIMILARITY, COLUMN, "n"])
    assert columns.captions == ["one", None, "three", None]
    assert columns.urls == [row.url for row in ROWS]
    digests = [int(sha256(uid.encode()).hexdigest()[:16], 16) for uid in "acd"]
    assert columns.image_bytes.tolist() == [digests[0], 0, *digests[1:]]
    assert columns.has_hash.tolist() == [True, False, True, True]
    assert columns.image_hashes[columns.has_hash].tolist() == digests
    assert columns.values[SIMILARITY] == pytest.approx(
        [0.25, np.nan, -0.5, np.nan], abs=1e-6, nan_ok=True
    )
    assert np.array_equal(columns.values[COLUMN], [1, np.nan, 3, np.nan], equal_nan=True)
    assert columns.values["n"].tolist() == [0, 1, 2, 3]  # of the source
    assert {values.dtype for values in columns.values.values()} == {np.dtype(np.float32)}


def test_vectors_are_of_unit_norm_and_missing_ones_are_told(folder):
    shards = audited(folder)
    unit, has_vector = shards.vectors("s")
    assert has_vector.tolist() == [True, False, True, True]
    expected = [direction(1), [0.0] * DIM, direction(2, 0.5), direction(3)]
    assert unit.dtype == np.float32 and np.allclose(unit, expected, atol=1e-3)
    assert np.linalg.norm(unit[has_vector], axis=1) == pytest.approx(1, abs=1e-6)
    assert len(shards.vectors("s", np.zeros(0, np.int64))[1]) == 0
    for rows in ([0, 2], [0, 3], [1, 3]):
        some, has = shards.vectors("s", np.array(rows, np.int64))
        assert has.tolist() == has_vector[rows].tolist()
        assert np.array_equal(some[has], unit[rows][has])


def test_rows_are_identified_by_uid_caption_address_and_bytes(folder):
    identities = audited(folder).identities("s", np.array([0, 1, 2])).to_pydict()
    assert identities == {
        "uid": ["a", "b", "c"],
        "caption": ["one", None, "three"],
        "url": ["http://x/a", "http://x/b", None],
        "image_sha256": [sha256(b"a").hexdigest(), None, sha256(b"c").hexdigest()],
    }


def test_a_source_without_urls_has_null_ones(tmp_path):
    shards = audited(write_folder(tmp_path / "out", {"s": ROWS}, urls=False))
    assert shards.identities("s", np.array([0]))["url"].to_pylist() == [None]
    assert shards.columns("s", []).urls == [None] * 4


def test_a_shard_of_failed_pictures_has_no_vectors(tmp_path):
    shards = audited(write_folder(tmp_path / "out", {"s": [ROWS[1]] * 3}))
    unit, has_vector = shards.vectors("s")
    assert (len(unit), has_vector.tolist()) == (3, [False] * 3)
    assert shards.columns("s", [SIMILARITY]).image_bytes.tolist() == [0, 0, 0]


def test_a_vector_of_zeros_is_no_vector(tmp_path):
    folder = write_folder(tmp_path / "out", {"s": [ROWS[0], ROWS[2]]})
    entry = folder.require_manifest().embeddings
    assert entry is not None
    name = names.embeddings(entry.model, entry.revision, "s")
    table, footer = folder.read_table(name), folder.read_footer(name)
    units = np.array([direction(1), [0.0] * DIM])
    place = table.column_names.index("image_embedding")
    column = vectors(units, np.ones(2, bool))
    folder.write_table(name, table.set_column(place, "image_embedding", column), footer)
    unit, has_vector = audited(folder).vectors("s")
    assert has_vector.tolist() == [True, False]
    assert not np.isnan(unit).any()


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_shard_without_scores_is_refused(folder, content):
    path_of(folder, SCORES).unlink()
    if content is not None:
        path_of(folder, SCORES).write_bytes(content)
    with pytest.raises(LedgerError, match=r"s\.parquet is missing or damaged; run `clipsieve run`"):
        audited(folder).shards()


def test_scores_of_other_rows_are_refused(folder):
    footer = {**folder.read_footer(SCORES), footers.UID_HASH: "0"}
    folder.write_table(SCORES, folder.read_table(SCORES), footer)
    with pytest.raises(LedgerError, match=r"has other uids than .*samples/s\.parquet; delete both"):
        audited(folder).shards()


def test_scores_without_the_column_are_refused_with_the_cure(folder):
    write_scores(folder, "s", {"density_lid": [1.0, None, 3.0, None]})
    message = rf"s\.parquet has no column '{COLUMN}'; run `clipsieve score`"
    with pytest.raises(LedgerError, match=message):
        audited(folder).columns("s", [COLUMN])
