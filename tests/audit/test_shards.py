"""What an audit reads of a folder, or why it does not."""

import numpy as np
import pytest

from clipsieve.audit.shards import AuditedShards
from clipsieve.errors import LedgerError
from clipsieve.schemas import footers
from clipsieve.store import names
from tests.audit.folders import COLUMN, REVISION, Row, direction, write_folder, write_scores
from tests.store.folders import path_of

ROWS = [
    Row("a", 1.0, "one", direction(1), "http://x/a"),
    Row("b", None, None, (), "http://x/b"),
    Row("c", 3.0, "three", direction(2), None),
]
SCORES = names.scores("density", REVISION, "s")


def audited(folder, column=COLUMN):
    embeddings = folder.require_manifest().embeddings
    return AuditedShards(folder, embeddings, "density", REVISION, column)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "out", {"s": ROWS, "r": ROWS[:1]})


def test_rows_are_read_by_shard_and_number(folder):
    shards = audited(folder)
    assert shards.shards() == ["r", "s"]
    scores = shards.scores("s")
    assert scores.dtype == np.float32
    assert np.array_equal(scores, [1, np.nan, 3], equal_nan=True)
    assert shards.captions("s") == ["one", None, "three"]
    identities = shards.identities("s", np.array([0, 2])).to_pydict()
    assert identities == {
        "uid": ["a", "c"],
        "caption": ["one", "three"],
        "url": ["http://x/a", None],
    }
    images = shards.images("s", np.array([0, 2]))
    assert images.dtype == np.float32
    expected = [row.picture for row in (ROWS[0], ROWS[2])]
    assert np.allclose(images, expected, atol=1e-3)
    assert len(shards.images("s", np.array([], np.int64))) == 0


def test_a_source_without_urls_has_null_ones(tmp_path):
    shards = audited(write_folder(tmp_path / "out", {"s": ROWS}, urls=False))
    assert shards.identities("s", np.array([0]))["url"].to_pylist() == [None]


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
    write_scores(folder, "s", {"density_lid": [1.0, None, 3.0]})
    message = rf"s\.parquet has no column '{COLUMN}'; run `clipsieve score`"
    with pytest.raises(LedgerError, match=message):
        audited(folder).scores("s")


def test_a_score_without_a_vector_is_refused(folder):
    with pytest.raises(LedgerError, match="lacks vectors of 1 rows that have a score"):
        audited(folder).images("s", np.array([0, 1]))
