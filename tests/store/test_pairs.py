"""Pairs as read back are those that were written, but for float16."""

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import LedgerError
from clipsieve.scorers.base import Input
from clipsieve.store.pairs import StoredPairs, split_batch
from tests.store.folders import DIM, manifest_of, paths_of, shard_of, shard_writer

SHARD = shard_of("s", 6, no_image=[1], no_text=[2])
ALL = [Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING, Input.CAPTION]


@pytest.fixture
def writer(tmp_path):
    writer = shard_writer(tmp_path)
    writer.commit(SHARD)
    return writer


def stored(writer):
    return StoredPairs(writer.folder, manifest_of(writer).embeddings, DIM)


def same(one, other):
    assert np.array_equal(one.valid, other.valid)
    assert np.allclose(one.vectors, other.vectors, atol=5e-3)
    assert not one.vectors[~one.valid].any()


def test_vectors_captions_and_uids_are_those_of_the_shard(writer):
    pairs = stored(writer).read("s", ALL)
    assert (pairs.shard, pairs.start, len(pairs)) == ("s", 0, 6)
    assert pairs.uid.equals(SHARD.pairs.uid)
    assert list(pairs.captions) == list(SHARD.pairs.captions)
    same(pairs.image, SHARD.pairs.image)
    same(pairs.texts[""], SHARD.pairs.texts[""])


def test_norms_are_those_of_the_model(writer):
    pairs = stored(writer).read("s", ALL)
    assert np.allclose(pairs.image.norms(), SHARD.pairs.image.norms(), rtol=1e-6)


def test_what_is_not_needed_is_not_read(writer):
    paths_of(writer, "s")["samples"].unlink()
    pairs = stored(writer).read("s", [Input.IMAGE_EMBEDDING])
    assert (dict(pairs.texts), list(pairs.captions)) == ({}, [])
    same(pairs.image, SHARD.pairs.image)


def test_a_ledger_of_other_rows_is_refused(writer):
    name = writer.names("s")["samples"]
    table = writer.folder.read_table(name).take([1, 0, 2, 3, 4, 5])
    writer.folder.write_table(name, table, writer.folder.read_footer(name))
    with pytest.raises(LedgerError, match=r"has other uids than .*; delete both and run"):
        stored(writer).read("s", ALL)


HASHES = [Input.IMAGE_HASHES, Input.CLIP_SCORE]


def test_hashes_and_clip_scores_are_read_without_vectors(writer):
    pairs = stored(writer).read("s", HASHES)
    assert (pairs.image, dict(pairs.texts), list(pairs.captions)) == (None, {}, [])
    digests = [digest and digest.hex() for digest in SHARD.digests]
    assert pairs.image_sha256 is not None and pairs.image_phash is not None
    assert pairs.image_sha256.to_pylist() == digests
    assert pairs.image_phash.to_pylist() == SHARD.phashes.tolist()
    assert digests[1] is None and pairs.image_phash.type == pa.uint64()
    stored_scores = writer.folder.read_table(writer.names("s")["clip"])["clip_score"].to_pylist()
    assert [None if np.isnan(s) else s for s in pairs.clip_score] == stored_scores
    assert stored_scores[2] is None and stored_scores[0] is not None
    parts = list(split_batch(pairs, 4))
    assert [p.image_sha256 for p in parts] == [pairs.image_sha256[:4], pairs.image_sha256[4:]]
    assert pa.concat_arrays([p.image_phash for p in parts]).equals(pairs.image_phash)
    joined = np.concatenate([p.clip_score for p in parts])
    assert np.array_equal(joined, pairs.clip_score, equal_nan=True)


def test_a_ledger_from_before_there_were_hashes_is_refused(writer):
    name = writer.names("s")["samples"]
    table = writer.folder.read_table(name).drop_columns(["image_sha256", "image_phash"])
    writer.folder.write_table(name, table, writer.folder.read_footer(name))
    assert stored(writer).read("s", [Input.CAPTION]).captions[0] == "caption s 0"
    with pytest.raises(LedgerError, match=r"no column image_sha256: shard s .* --reprocess"):
        stored(writer).read("s", HASHES)


def test_clip_scores_of_other_rows_are_refused(writer):
    name = writer.names("s")["clip"]
    table = writer.folder.read_table(name).take([1, 0, 2, 3, 4, 5])
    writer.folder.write_table(name, table, writer.folder.read_footer(name))
    with pytest.raises(LedgerError, match=r"has other uids than .*; delete both and run"):
        stored(writer).read("s", HASHES)


def test_a_shard_without_rows_is_read(writer):
    writer.commit(shard_of("e", 0, uids=pa.array([], pa.string())))
    pairs = stored(writer).read("e", ALL)
    assert len(pairs) == 0
    assert pairs.image.vectors.shape == (0, DIM)
    (batch,) = split_batch(pairs, 2)
    assert len(batch) == 0


@pytest.mark.parametrize("rows", [1, 2, 4, 6, 100])
def test_batches_are_the_pairs_in_order(writer, rows):
    pairs = stored(writer).read("s", ALL)
    batches = list(split_batch(pairs, rows))
    assert max(map(len, batches)) <= rows
    assert [batch.start for batch in batches] == list(range(0, 6, rows))
    assert all(batch.shard == "s" for batch in batches)
    assert pa.concat_arrays([batch.uid for batch in batches]).equals(pairs.uid)
    assert [caption for batch in batches for caption in batch.captions] == list(pairs.captions)
    for side in (lambda batch: batch.image, lambda batch: batch.texts[""]):
        parts = np.concatenate([side(batch).vectors for batch in batches])
        assert np.array_equal(parts, side(pairs).vectors)
        valid = np.concatenate([side(batch).valid for batch in batches])
        assert np.array_equal(valid, side(pairs).valid)
