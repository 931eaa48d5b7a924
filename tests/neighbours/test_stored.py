"""Neighbours among all rows, or a batch of them, are those that a loop over them finds."""

import dataclasses

import numpy as np
import pytest

from clipsieve.control import Control
from clipsieve.errors import LedgerError
from clipsieve.neighbours.stored import (
    DatasetSearch,
    NeighbourSet,
    NeighbourStage,
    grouped,
    missing_lists,
    read_shard_lists,
)
from clipsieve.scorers.base import Input, NeighbourSpec
from clipsieve.statistics.hash_sample import row_hashes
from clipsieve.store.members import ok_rows, read_members
from tests.neighbours.stored_pairs import Naive, assert_lists
from tests.scoring.folders import (
    SHARDS,
    InProcess,
    make_folder,
    make_shard,
    pairs_of,
    varied_shards,
    writer_of,
)

K = 6
NEEDS = (Input.IMAGE_EMBEDDING, Input.TEXT_EMBEDDING)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("pairs"), varied_shards())


@pytest.fixture(scope="module")
def pairs(folder):
    return pairs_of(folder)


@pytest.fixture(scope="module")
def members(folder):
    return read_members(folder)


def naive_of(pairs, members, texts):
    rows = sum(member.rows for member in members)
    vectors, owners, numbers = [], [], []
    for side in ("image", "text")[: 2 if texts else 1]:
        for member in members:
            batch = pairs.read(member.shard, NEEDS)
            embedded = batch.image if side == "image" else batch.texts[""]
            for row in np.flatnonzero(embedded.valid).tolist():
                vectors.append(embedded.vectors[row])
                owners.append((member.shard, row))
                numbers.append(member.first + row + (rows if side == "text" else 0))
    return Naive(vectors, owners, numbers)


@pytest.mark.parametrize("texts", [False, True], ids=["images", "texts"])
@pytest.mark.parametrize("block_rows", [1, 40, 10_000])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_lists_are_those_of_a_loop_in_blocks_of_any_size(pairs, members, texts, block_rows, metric):
    spec = NeighbourSpec(k=K, texts=texts, metric=metric)
    search = DatasetSearch(pairs, spec, members, "cpu", block_rows)
    naive = naive_of(pairs, members, texts)
    batches = [pairs.read(shard, NEEDS) for shard in SHARDS]
    for batch, lists in zip(batches, search.search_images(batches), strict=True):
        for row in range(len(batch)):
            expected = (
                naive.nearest(batch.image.vectors[row], (batch.shard, row), K, metric)
                if batch.image.valid[row]
                else []
            )
            assert_lists(lists, row, expected)
        if texts:
            captions = search.search_captions(batch)
            text = batch.texts[""]
            for row in range(len(batch)):
                expected = (
                    naive.nearest(text.vectors[row], (batch.shard, row), K, metric)
                    if text.valid[row]
                    else []
                )
                assert_lists(captions, row, expected)


@pytest.mark.parametrize("size", [10, 30, 1000])
def test_a_batch_holds_the_rows_with_its_share_of_hashes(pairs, members, size):
    spec = NeighbourSpec(k=K, batch=size, seed=5)
    search = DatasetSearch(pairs, spec, members, "cpu", block_rows=40)
    batches = {shard: pairs.read(shard, NEEDS) for shard in SHARDS}
    deal = {
        (shard, row): int(hashed) * search.batches >> 64
        for shard, batch in batches.items()
        for row, hashed in enumerate(row_hashes(batch.uid, 5))
    }
    assert search.batches == max(1, round(ok_rows(members) / size))
    naive = naive_of(pairs, members, texts=False)
    for (shard, batch), lists in zip(
        batches.items(), search.search_images(list(batches.values())), strict=True
    ):
        for row in np.flatnonzero(batch.image.valid).tolist():
            mine = deal[shard, row]
            expected = naive.nearest(
                batch.image.vectors[row],
                (shard, row),
                K,
                where=lambda owner, mine=mine: deal[owner] == mine,
            )
            assert_lists(lists, row, expected)


def test_rows_of_a_shard_that_came_later_have_all_others_as_neighbours(pairs, members):
    search = DatasetSearch(pairs, NeighbourSpec(k=1), members, "cpu")
    batch = pairs.read("a", NEEDS)
    newcomer = dataclasses.replace(batch, shard="new")
    (lists,) = search.search_images([newcomer])
    valid = batch.image.valid
    assert (lists.distances[valid] == 0).all()
    assert lists.indices[valid, 0].tolist() == np.flatnonzero(valid).tolist()


def test_groups_hold_all_shards_in_order_and_no_more_rows_than_asked_for():
    shards = [(str(n), n % 7) for n in range(40)]
    groups = grouped(shards, rows=10)
    assert [name for group in groups for name in group] == [name for name, _ in shards]
    assert all(sum(dict(shards)[n] for n in group) <= 10 for group in groups)
    assert grouped([], rows=10) == []
    assert grouped([("big", 50)], rows=10) == [["big"]]


# Sets of lists on disk


@pytest.fixture
def own_folder(tmp_path):
    """A folder that a test may change."""
    return make_folder(tmp_path / "out", varied_shards())


SPECS = [
    NeighbourSpec(k=K),
    NeighbourSpec(k=3, texts=True, metric="cosine"),
    NeighbourSpec(k=2, batch=30, seed=4),
]


def make_sets(folder, specs=SPECS):
    embeddings = folder.require_manifest().embeddings
    sets = [NeighbourSet.new(spec, read_members(folder), embeddings.revision) for spec in specs]
    for each in sets:
        each.save(folder)
    return sets


def stage_of(folder, sets):
    manifest = folder.require_manifest()
    return NeighbourStage(
        out=folder.root,
        run_id="run",
        device="cpu",
        control=Control("neighbours", folder.root),
        sets=tuple(each.id for each in sets),
        embeddings=manifest.embeddings,
        dim=manifest.model.dim,
    )


def run_stage(folder, sets, engine=None):
    stage = stage_of(folder, sets)
    return (engine or InProcess()).run(stage, stage.elements(read_members(folder)))


def read_lists(folder, sets, shard):
    batch = pairs_of(folder).read(shard, NEEDS)
    by_key = {each.spec.key: each.id for each in sets}
    return read_shard_lists(folder, batch, [each.spec for each in sets], by_key)


def test_a_set_is_read_as_it_was_saved(own_folder):
    for each in make_sets(own_folder):
        assert NeighbourSet.load(own_folder, each.id) == each
    assert NeighbourSet.load(own_folder, "0123456789ab") is None


def test_all_that_decides_the_lists_changes_the_id(members):
    base = NeighbourSet.new(SPECS[0], members, "rev")
    others = [
        NeighbourSet.new(SPECS[1], members, "rev"),
        NeighbourSet.new(SPECS[0], members[1:], "rev"),
        NeighbourSet.new(SPECS[0], members, "other"),
    ]
    assert len({each.id for each in (base, *others)}) == 4
    assert NeighbourSet.new(SPECS[0], members, "rev") == base


def test_stored_lists_are_those_of_the_search(own_folder):
    sets, members = make_sets(own_folder), read_members(own_folder)
    report = run_stage(own_folder, sets)
    assert len(report.done) == 1  # all shards fit in one group
    for shard in SHARDS:
        batch = read_lists(own_folder, sets, shard)
        for each in sets:
            search = DatasetSearch(pairs_of(own_folder), each.spec, members, "cpu")
            (expected,) = search.search_images([batch])
            stored = batch.neighbours[each.spec]
            assert np.array_equal(stored.distances, expected.distances)
            assert np.array_equal(stored.indices, expected.indices)
            if each.spec.texts:
                captions = search.search_captions(batch)
                stored = batch.caption_neighbours[each.spec]
                assert np.array_equal(stored.distances, captions.distances)
                assert np.array_equal(stored.indices, captions.indices)
            else:
                assert each.spec not in batch.caption_neighbours


def test_lists_that_are_there_are_not_found_again(own_folder):
    sets = make_sets(own_folder)
    assert missing_lists(own_folder, [s.id for s in sets], read_members(own_folder)) == list(SHARDS)
    run_stage(own_folder, sets)
    assert stage_of(own_folder, sets).elements(read_members(own_folder)) == []


def test_a_shard_without_lists_of_its_present_rows_gets_them(own_folder):
    sets = make_sets(own_folder)
    run_stage(own_folder, sets)
    own_folder.files.delete(f"neighbours/{sets[1].id}/text/c.parquet")
    assert missing_lists(own_folder, [s.id for s in sets], read_members(own_folder)) == ["c"]
    (element,) = stage_of(own_folder, sets).elements(read_members(own_folder))
    assert (element.text, element.weight) == ('["c"]', SHARDS["c"])
    run_stage(own_folder, sets)
    writer_of(own_folder.root).commit(make_shard("d", 9, seed=3, version="2"))
    assert missing_lists(own_folder, [s.id for s in sets], read_members(own_folder)) == ["d"]


def test_a_later_shard_has_lists_of_its_images_among_the_members(own_folder):
    sets = make_sets(own_folder)
    run_stage(own_folder, sets)
    before = {shard: read_lists(own_folder, sets, shard).neighbours for shard in SHARDS}
    writer_of(own_folder.root).commit(make_shard("later", 7, seed=50))
    assert sets[1].sides("later") == ("image",)
    assert sets[1].sides("a") == ("image", "text")
    assert sets[0].sides("a") == ("image",)
    run_stage(own_folder, sets)
    later = read_lists(own_folder, sets, "later")
    assert later.caption_neighbours == {}
    naive = naive_of(pairs_of(own_folder), sets[0].members, texts=False)
    for row, vector in enumerate(later.image.vectors):
        assert_lists(later.neighbours[SPECS[0]], row, naive.nearest(vector, ("later", row), K))
    for shard, lists in before.items():
        again = read_lists(own_folder, sets, shard).neighbours
        assert all(np.array_equal(again[s].indices, lists[s].indices) for s in SPECS)


def test_a_stopped_stage_begins_no_other_group(own_folder):
    sets = make_sets(own_folder)
    stage = stage_of(own_folder, sets)
    stage.control.stop("test")
    assert list(stage.open().work(['["a"]', '["b"]'])) == []
    assert own_folder.files.list_files(f"neighbours/{sets[0].id}/image") == []


def test_missing_lists_are_an_error(own_folder):
    sets = make_sets(own_folder)
    with pytest.raises(LedgerError, match=r"image/a\.parquet is missing or damaged"):
        read_lists(own_folder, sets, "a")
