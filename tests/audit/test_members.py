"""The rows of candidates equal those of looking at every row; pictures are told apart."""

import numpy as np
import pytest

from clipsieve.audit.candidates import Candidate
from clipsieve.audit.keys import NO_KEY, Kind, RowKeys
from clipsieve.audit.members import (
    MOST_PICTURES,
    SAME_PICTURE_BITS,
    MembersBuilder,
    number_pictures,
)

SINGLE = (Kind.IMAGE_BYTES, Kind.CAPTION, Kind.IMAGE_HASH, Kind.CAPTION_TEMPLATE, Kind.HOST)


def random_keys(rows, rng):
    """Keys of few values, so that they repeat; some rows have none."""
    single = {kind: rng.integers(0, 6, rows).astype(np.uint64) for kind in SINGLE}
    words = [(row, key) for row in range(rows) for key in range(1, 6) if rng.random() < 0.3]
    word_rows, word_keys = np.array(words).reshape(-1, 2).T
    has_bits = rng.random(rows) < 0.7
    bits = np.where(has_bits, rng.integers(0, 9, rows), 0).astype(np.uint64)
    return RowKeys(single, word_rows.astype(np.int64), word_keys.astype(np.uint64), bits, has_bits)


def naive_rows(keys, candidate, centres):
    """Rows of a shard in a candidate."""
    if candidate.kind is Kind.PICTURE:
        return {row for row, number in enumerate(centres.tolist()) if number == candidate.key}
    rows, own = keys.of_kind(candidate.kind)
    return {r for r, key in zip(rows.tolist(), own.tolist(), strict=True) if key == candidate.key}


@pytest.mark.parametrize("seed", range(4))
def test_members_equal_those_of_looking_at_every_row(seed):
    rng = np.random.default_rng(seed)
    candidates = [
        Candidate(kind, key, 9) for kind in Kind for key in rng.permutation(6)[:3].tolist()
    ]
    candidates = [c for c in candidates if c.key or c.kind is Kind.PICTURE]
    candidates = [candidates[n] for n in rng.permutation(len(candidates))]
    candidates.append(Candidate(Kind.CAPTION, 12345, 9))  # no row has it
    builder = MembersBuilder(candidates)
    shards = []
    for shard, count in enumerate((30, 0, 1, 50)):
        keys, centres = random_keys(count, rng), rng.integers(-1, 6, count)
        wanted = [c.key for c in candidates if c.kind is Kind.PICTURE]
        centres = np.where(np.isin(centres, wanted), centres, -1)
        witnesses = tuple(rng.normal(size=(count, 2)) for _ in range(3))
        builder.add(shard, keys, witnesses, centres)
        shards.append((keys, centres, witnesses))
    members = builder.build(2)
    places = list(zip(members.shards.tolist(), members.rows.tolist(), strict=True))
    assert places == sorted(set(places))
    for candidate, group in zip(candidates, members.groups, strict=True):
        naive = [
            (shard, row)
            for shard, (keys, centres, _) in enumerate(shards)
            for row in sorted(naive_rows(keys, candidate, centres))
        ]
        assert [places[n] for n in group.tolist()] == naive, candidate
    assert {n for group in members.groups for n in group.tolist()} == set(range(len(places)))
    for number, (shard, row) in enumerate(places):
        keys, _, witnesses = shards[shard]
        known = (members.scores, members.surprises, members.values)
        for mine, given in zip(known, witnesses, strict=True):
            assert np.array_equal(mine[number], given[row])
        assert members.captions[number] == keys.single[Kind.CAPTION][row]
        has_bits = bool(keys.has_bits[row])
        assert bool(members.has_bits[number]) is has_bits
        picture = keys.bits[row] if has_bits else keys.single[Kind.IMAGE_BYTES][row]
        assert members.pictures[number] == picture


@pytest.mark.parametrize(
    "candidates", [[], [Candidate(Kind.HOST, 99, 3), Candidate(Kind.PICTURE, 0, 3)]]
)
def test_candidates_without_rows_have_empty_groups(candidates):
    builder = MembersBuilder(candidates)
    rng = np.random.default_rng(0)
    values = np.zeros((5, 1))
    builder.add(0, random_keys(5, rng), (values, values, values), np.full(5, -1))
    members = builder.build(1)
    assert [group.tolist() for group in members.groups] == [[]] * len(candidates)
    assert members.scores.shape == (0, 1)


def naive_pictures(pictures, has_bits):
    """Sets of rows of one picture, one row after the other."""
    found = []
    hashes = sorted({int(p) for p, known in zip(pictures, has_bits, strict=True) if known})
    while hashes:
        near = {h for h in hashes if (h ^ hashes[0]).bit_count() <= SAME_PICTURE_BITS}
        hashes = [h for h in hashes if h not in near]
        found.append({n for n, p in enumerate(pictures) if has_bits[n] and int(p) in near})
    for key in sorted({int(p) for p, known in zip(pictures, has_bits, strict=True) if not known}):
        rows = {n for n, p in enumerate(pictures) if not has_bits[n] and int(p) == key}
        found += [{row} for row in rows] if key == NO_KEY else [rows]
    return found


def sets_of(numbers):
    return {frozenset(np.flatnonzero(numbers == n).tolist()) for n in set(numbers.tolist())}


@pytest.mark.parametrize("seed", range(5))
def test_pictures_equal_those_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 1 << 63, 12, np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.integers(64, size=5)) for _ in range(150)])
    pictures = centres[rng.integers(12, size=150)] ^ flips.astype(np.uint64)
    has_bits = rng.random(150) < 0.8
    pictures[~has_bits] = rng.integers(0, 8, int((~has_bits).sum()))
    numbers = number_pictures(pictures, has_bits)
    assert sets_of(numbers) == set(map(frozenset, naive_pictures(pictures.tolist(), has_bits)))
    assert sorted(set(numbers.tolist())) == list(range(len(set(numbers.tolist()))))


def test_hashes_in_a_chain_are_no_one_picture():
    chain = np.array([(1 << (4 * n)) - 1 for n in range(12)], np.uint64)  # four bits each
    numbers = number_pictures(chain, np.ones(12, bool))
    assert numbers.tolist() == [n // 2 for n in range(12)]


def test_six_bits_are_one_picture_and_seven_are_two():
    for bits, pictures in ((6, 1), (7, 2)):
        hashes = np.array([0, (1 << bits) - 1], np.uint64)
        assert len(set(number_pictures(hashes, np.ones(2, bool)).tolist())) == pictures


def test_rows_without_hash_and_bytes_are_apart_and_those_of_equal_bytes_together():
    pictures = np.array([NO_KEY, 5, NO_KEY, 5, 6, 0, 0], np.uint64)
    has_bits = np.array([False] * 5 + [True, True])
    numbers = number_pictures(pictures, has_bits)
    expected = {frozenset(s) for s in ([0], [2], [1, 3], [4], [5, 6])}
    assert sets_of(numbers) == expected


def test_beyond_the_most_pictures_each_hash_is_its_own_and_equal_ones_are_still_one():
    rng = np.random.default_rng(1)
    hashes = np.unique(rng.integers(0, 1 << 63, MOST_PICTURES + 40, np.uint64))
    last = (1 << 64) - 1
    pictures = np.concatenate([hashes, np.array([last - 1, last, last], np.uint64)])
    numbers = number_pictures(pictures, np.ones(len(pictures), bool))
    assert len(set(numbers.tolist())) == len(hashes) + 2
    assert numbers[-1] == numbers[-2] != numbers[-3]
