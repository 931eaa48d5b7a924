"""The columns are those of a naive computation, however rows are split and in whatever order."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.errors import LedgerError, UsageError
from clipsieve.neighbours.stored import read_shard_lists
from clipsieve.scorers.base import Context, Input, PairBatch
from clipsieve.scorers.duplicates.groups import Groups, unique_numbers
from clipsieve.scorers.duplicates.keys import BYTES, CAPTION, PHASH, Keys
from clipsieve.scorers.registry import make_scorer, resolve_names
from clipsieve.store.pairs import split_batch
from tests.scorers.duplicates.folders import SHARDS, duplicated_shards
from tests.scorers.duplicates.naive import (
    caption_key,
    check_columns,
    equal_groups,
    phash_groups,
    star_groups,
)
from tests.scoring.folders import (
    DIM,
    make_folder,
    pairs_of,
    read_scores,
    score_folder,
    writer_of,
)

NAMES = ("duplicates.bytes", "duplicates.caption", "duplicates.phash")


def scored_rows(folder, shards=SHARDS):
    """Every row with ledger, clip score and duplicate columns."""
    rows = []
    for shard in sorted(shards):
        ledger = folder.read_table(f"samples/{shard}.parquet")
        tables = [read_scores(folder, family, shard) for family in ("clip", "duplicates")]
        for table in tables:
            assert table["uid"].equals(ledger["uid"])
            for name in table.column_names[1:]:
                ledger = ledger.append_column(table.schema.field(name), table[name])
        rows += ledger.to_pylist()
    return rows


@pytest.mark.parametrize(("seed", "uids"), [(0, "text"), (1, "int"), (2, "text")])
def test_columns_are_those_of_the_definition(tmp_path, seed, uids):
    folder = make_folder(tmp_path, duplicated_shards(seed, uids=uids))
    score_folder(folder, NAMES)
    rows = scored_rows(folder)
    check_columns(rows, "duplicate_bytes", equal_groups(rows, lambda row: row["image_sha256"]))
    check_columns(rows, "duplicate_caption", equal_groups(rows, caption_key))
    check_columns(rows, "duplicate", phash_groups(rows, 4))
    schema = read_scores(folder, "duplicates", "a").schema
    kinds = {"group": pa.uint64(), "size": pa.int64(), "first": pa.bool_()}
    for name in schema.names[1:]:
        assert schema.field(name).type == kinds[name.rpartition("_")[2]]
        assert schema.field(name).metadata[b"doc"]


@pytest.mark.parametrize("distance", [0, 2, 7])
def test_the_distance_is_an_option(tmp_path, distance):
    folder = make_folder(tmp_path, duplicated_shards(5))
    score_folder(folder, ["duplicates.phash"], {"duplicates.phash": {"distance": distance}})
    rows = scored_rows(folder)
    groups = phash_groups(rows, distance)
    check_columns(rows, "duplicate", groups)
    for group in groups:
        for row in group:
            differing = row["image_phash"] ^ group[0]["image_phash"]
            assert differing.bit_count() <= distance
            assert len(group) == 1 or row["duplicate_group"] == group[0]["image_phash"]


def cosine_groups(folder, rows, threshold):
    """Stars over rows whose stored vectors have at least a cosine."""
    for row in rows:
        row["vector"] = None
    for shard in SHARDS:
        batch = pairs_of(folder).read(shard, [Input.IMAGE_EMBEDDING])
        mine = [row for row in rows if row["shard"] == shard]
        for row, vector, valid in zip(mine, batch.image.unit(), batch.image.valid, strict=True):
            row["vector"] = vector if valid else None
    groups = [[row] for row in rows if row["vector"] is not None]
    return star_groups(groups, lambda a, b: float(a["vector"] @ b["vector"]) >= threshold - 1e-6)


@pytest.mark.parametrize("threshold", [0.95, 0.8])
def test_stars_of_embeddings(tmp_path, threshold):
    folder = make_folder(tmp_path, duplicated_shards(3))
    options = {"threshold": threshold, "k": sum(SHARDS.values())}
    score_folder(folder, ["duplicates.embedding"], {"duplicates.embedding": options})
    rows = scored_rows(folder)
    groups = cosine_groups(folder, rows, threshold)
    assert max(map(len, groups)) > 5
    check_columns(rows, "duplicate_embedding", groups)


def test_lists_that_are_long_enough_give_the_same_groups(tmp_path):
    """Exact up to k + 1 rows in a group."""
    folder = make_folder(tmp_path, duplicated_shards(3))
    most = max(map(len, all_near(folder)))
    options = {"duplicates.embedding": {"k": most - 1}}
    score_folder(folder, ["duplicates.embedding"], options)
    rows = scored_rows(folder)
    check_columns(rows, "duplicate_embedding", cosine_groups(folder, rows, 0.95))


def all_near(folder):
    """For each row the rows within the threshold, itself among them."""
    batches = [pairs_of(folder).read(shard, [Input.IMAGE_EMBEDDING]) for shard in SHARDS]
    unit = np.concatenate([batch.image.unit()[batch.image.valid] for batch in batches])
    return [np.flatnonzero(near) for near in unit @ unit.T >= 0.95 - 1e-6]


# Learning


def learnt(scorer, batches, rng=None):
    """What a scorer learns of batches, their states added in a random order."""
    context = Context(DIM, sum(map(len, batches)), 1.0)
    known: dict[str, np.ndarray] = {}
    while asked := scorer.statistics(known, context):
        sums = {}
        for name, statistic in asked.items():
            states = [statistic.observe(batch, context) for batch in batches]
            while len(states) > 1:
                at = int(rng.integers(len(states) - 1)) if rng is not None else 0
                other = states.pop(int(rng.integers(len(states))) if rng is not None else 1)
                at = min(at, len(states) - 1)
                states[at] = pickle.loads(pickle.dumps(states[at])) + other
            sums[name] = states[0]
        known = scorer.learn(sums, known, context)
        assert all(array.dtype.kind in "uifbU" for array in known.values())
    return known


@pytest.mark.parametrize("name", [*NAMES, "duplicates.embedding"])
def test_any_split_and_order_gives_the_same_arrays(tmp_path, name):
    folder = make_folder(tmp_path, duplicated_shards(6))
    score_folder(folder, [name])
    scorer = make_scorer(name, {})
    needs = {Input.IMAGE_HASHES, Input.CAPTION, Input.CLIP_SCORE, Input.IMAGE_EMBEDDING}
    batches = [pairs_of(folder).read(shard, needs) for shard in sorted(SHARDS)]
    if scorer.neighbour_lists():
        entry = folder.require_manifest().scorers()[name]
        specs, sets = scorer.neighbour_lists(), entry.neighbours
        batches = [read_shard_lists(folder, batch, specs, sets) for batch in batches]
    whole = learnt(scorer, batches)
    assert len(whole["groups"]) > 3
    rng = np.random.default_rng(0)
    for rows in (1, 7, 100):
        parts = [part for batch in batches for part in split_batch(batch, rows)]
        again = learnt(scorer, [parts[at] for at in rng.permutation(len(parts))], rng)
        assert list(again) == list(whole)
        for key, array in whole.items():
            assert again[key].tobytes() == array.tobytes() and again[key].dtype == array.dtype, key


def test_rows_that_come_later(tmp_path):
    shards = duplicated_shards(8, {"a": 40, "b": 30})
    folder = make_folder(tmp_path, shards[:1])
    score_folder(folder, [*NAMES, "duplicates.embedding"])
    before = read_scores(folder, "duplicates", "a")
    writer_of(tmp_path).commit(shards[1])
    score_folder(folder, [*NAMES, "duplicates.embedding"])
    assert read_scores(folder, "duplicates", "a").equals(before)
    prefixes = {"duplicate_bytes": "image_sha256", "duplicate": "image_phash"}
    rows = scored_rows(folder, ["a", "b"])
    for prefix, column in prefixes.items():
        groups = {r[column]: r[f"{prefix}_group"] for r in rows if r["shard"] == "a"}
        later = [r for r in rows if r["shard"] == "b" and r[column] is not None]
        for row in later:
            assert row[f"{prefix}_group"] == groups.get(row[column])
            assert row[f"{prefix}_first"] == (groups.get(row[column]) is None)
        assert len({row[f"{prefix}_first"] for row in later}) == 2
    firsts = {r["duplicate_embedding_group"] for r in rows if r["shard"] == "a"}
    later = [r for r in rows if r["shard"] == "b" and r["image_width"] is not None]
    assert {r["duplicate_embedding_group"] for r in later} <= firsts
    joined = [r for r in later if r["duplicate_embedding_group"] is not None]
    assert joined and not any(row["duplicate_embedding_first"] for row in joined)
    score_folder(folder, NAMES, refit=True)
    rows = scored_rows(folder, ["a", "b"])
    check_columns(rows, "duplicate", phash_groups(rows, 4))


def test_a_row_that_took_the_place_of_a_representative_is_none():
    """A shard was embedded again and has other rows, or another folder was learnt of."""
    arrays = {
        "keys": np.array([[5, 6]], np.uint64),
        "groups": np.array([5], np.uint64),
        "sizes": np.array([2]),
        "shards": np.array(["s"]),
        "shard": np.array([0], np.int32),
        "rows": np.array([1]),
        "uids": np.array([123], np.uint64),
    }
    keys = Keys(np.array([[5, 6], [5, 6]], np.uint64), np.ones(2, bool))
    batch = PairBatch(pa.array(["x", "y"]), shard="s")
    columns = Groups.from_arrays(arrays).columns("d", keys, batch)
    assert columns["d_first"].tolist() == [False, False]
    assert columns["d_group"].tolist() == [5, 5]


def test_an_empty_dataset_has_no_groups(tmp_path):
    folder = make_folder(tmp_path, duplicated_shards(0, {"a": 0}))
    score_folder(folder, [*NAMES, "duplicates.embedding"])
    assert read_scores(folder, "duplicates", "a").num_rows == 0


def test_a_ledger_without_hashes_is_refused(tmp_path):
    folder = make_folder(tmp_path, duplicated_shards(0))
    table = folder.read_table("samples/c.parquet")
    footer = folder.read_footer("samples/c.parquet")
    folder.write_table("samples/c.parquet", table.drop_columns(["image_phash"]), footer)
    score_folder(folder, ["duplicates.caption"])
    with pytest.raises(LedgerError, match=r"no column image_phash: shard c .* --reprocess"):
        score_folder(folder, ["duplicates.phash"])


# Keys


def test_keys_that_share_their_first_half_are_apart():
    keys = np.array([[5, 1], [5, 2], [5, 9], [6, 0], [6, 2]], np.uint64)
    groups = Groups(keys, *[np.arange(5)] * 6)
    asked = [[5, 2], [5, 3], [6, 0], [5, 9], [4, 1], [7, 0], [6, 3], [5, 1], [6, 2], [5, 10]]
    got = groups.find(np.array(asked, np.uint64)).tolist()
    assert got == [1, -1, 3, 2, -1, -1, -1, 0, 4, -1]
    assert unique_numbers(keys).tolist() == [5, 6, 7, 8, 9]


def test_which_rows_have_keys():
    digest = bytes(range(32)).hex()
    batch = PairBatch(
        pa.array(["x"] * 4),
        captions=["é", None, " \u3000", "é"],
        image_sha256=pa.array([digest, None, "f" * 64, digest]),
        image_phash=pa.array([2**64 - 1, None, 0, 7], pa.uint64()),
    )
    keys = BYTES.keys(batch)
    assert keys.valid.tolist() == [True, False, True, True]
    assert [int(v) for v in keys.values[0]] == [0x0001020304050607, 0x08090A0B0C0D0E0F]
    assert keys.values[2].tolist() == [2**64 - 1] * 2 and keys.values[1].tolist() == [0, 0]
    keys = CAPTION.keys(batch)
    assert keys.valid.tolist() == [True, False, False, True]
    assert keys.values[0].tolist() == keys.values[3].tolist() != [0, 0]
    keys = PHASH.keys(batch)
    assert keys.valid.tolist() == [True, False, True, True]
    assert keys.values[:, 0].tolist() == [2**64 - 1, 0, 0, 7]


# Names and options


def test_the_group_of_scorers():
    assert resolve_names(["duplicates"]) == NAMES


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("duplicates.phash", {"distance": 9}, "from 0 to 8 bits, got 9"),
        ("duplicates.phash", {"distance": 2.5}, "must be an int, got 2.5"),
        ("duplicates.embedding", {"threshold": 0}, "above 0 and at most 1, got 0"),
        ("duplicates.embedding", {"threshold": "0.9"}, "must be a number, got '0.9'"),
        ("duplicates.embedding", {"k": 0}, "must be an int of at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_scorer(name, options)
