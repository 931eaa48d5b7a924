"""Family files: unchanged columns are carried over, the others computed, all named by scorer."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from clipsieve.clip.encode import Encoder
from clipsieve.clip.model import identify, load_model
from clipsieve.errors import UsageError
from clipsieve.scorers.base import Context, Input
from clipsieve.scorers.clipscore import PAPER_PROMPT
from clipsieve.scorers.columns import made_by
from clipsieve.scorers.density import k_distance
from clipsieve.scorers.registry import make_scorer
from clipsieve.store.manifest import InputEntry
from clipsieve.store.pairs import split_batch
from tests.scoring.folders import (
    DIM,
    SHARDS,
    InProcess,
    make_folder,
    make_shard,
    pairs_of,
    read_scores,
    score_folder,
    varied_shards,
    writer_of,
)
from tests.scoring.toys import Nearest, Plain

PLAIN = Plain.columns.names


def family_files(folder, family):
    revision = folder.require_manifest().families[family].revision
    return [f"scores/{family}/rev={revision}/{shard}.parquet" for shard in folder.shards()]


def tables(folder, family):
    return [folder.read_table(name) for name in family_files(folder, family)]


def same_bits(one, other):
    """Whether columns are equal to the bit, metadata included."""
    return one.equals(other) and all(
        mine.equals(its, check_metadata=True)
        for mine, its in zip(one.schema, other.schema, strict=True)
    )


def test_columns_are_stored_in_their_types_with_nulls(folder, calls):
    score_folder(folder, ["toy.plain"])
    for shard, rows in SHARDS.items():
        table = read_scores(folder, "toy", shard)
        batch = pairs_of(folder).read(shard, ())
        assert table.schema.types == [pa.string(), *Plain.columns.types]
        valid = batch.image.valid.tolist()
        expected = [row if ok else None for row, ok in enumerate(valid)]
        assert table["position"].to_pylist() == expected
        assert table["is_even"].to_pylist() == [None if e is None else e % 2 == 0 for e in expected]
        names = [u if ok else None for u, ok in zip(batch.uid.to_pylist(), valid, strict=True)]
        assert table["name"].to_pylist() == names
        norms = [
            float(np.linalg.norm(v)) if ok else None for v, ok in zip(*both(batch), strict=True)
        ]
        assert table["length"].to_pylist() == [
            None if n is None else pytest.approx(n, rel=1e-6) for n in norms
        ]
        assert table.num_rows == rows


def both(batch):
    return batch.image.vectors, batch.image.valid


def test_metadata_of_columns_names_scorer_and_revision(folder, calls):
    score_folder(folder, ["toy.plain", "toy.other"])
    entries = folder.require_manifest().scorers()
    for table in tables(folder, "toy"):
        owners = {field.name: made_by(field) for field in table.schema}
        assert owners.pop("uid") is None
        plain = ("toy.plain", entries["toy.plain"].revision)
        assert owners == {
            **dict.fromkeys(PLAIN, plain),
            "scale": ("toy.other", entries["toy.other"].revision),
        }
        assert table.schema.field("position").metadata[b"doc"] == b"doc of position"
    assert entries["toy.plain"].revision != entries["toy.other"].revision


def test_unchanged_columns_are_carried_over_to_the_bit(folder, calls):
    score_folder(folder, ["toy.plain"])
    before = tables(folder, "toy")
    score_folder(folder, ["toy.plain", "toy.other"])
    assert (calls["rows", "toy.plain"], calls["rows", "toy.other"]) == (100, 100)
    assert calls["load", "toy.plain"] == 1
    for old, new in zip(before, tables(folder, "toy"), strict=True):
        assert new.column_names == ["uid", *PLAIN, "scale"]
        assert same_bits(new.select(["uid", *PLAIN]), old)
        assert new["scale"].to_pylist() == [50.0] * len(new)


def test_a_scorer_put_first_has_its_columns_first(folder, calls):
    score_folder(folder, ["toy.plain"])
    score_folder(folder, ["toy.other", "toy.plain"])
    assert tables(folder, "toy")[0].column_names == ["uid", "scale", *PLAIN]
    assert calls["rows", "toy.plain"] == 100


def test_a_changed_scorer_alone_is_computed_again(folder, calls):
    score_folder(folder, ["toy.plain", "toy.other"])
    before = tables(folder, "toy")
    calls.clear()
    score_folder(folder, ["toy.plain", "toy.other"], {"toy.plain": {"offset": 5}})
    assert (calls["rows", "toy.plain"], calls["rows", "toy.other"]) == (100, 0)
    for old, new in zip(before, tables(folder, "toy"), strict=True):
        assert same_bits(new.select(["scale"]), old.select(["scale"]))
        expected = [None if p is None else p + 5 for p in old["position"].to_pylist()]
        assert new["position"].to_pylist() == expected


def test_the_metadata_of_the_old_file_decides_what_is_carried_over(folder, calls):
    score_folder(folder, ["toy.plain"])
    # One shard's columns say that another revision made them, one's say nothing.
    for name, metadata in zip(
        family_files(folder, "toy")[:2],
        ({b"scorer": b"toy.plain", b"revision": b"0123456789abcdef"}, None),
        strict=True,
    ):
        table = folder.read_table(name)
        fields = [field.with_metadata(metadata) for field in table.schema]
        other = pa.Table.from_arrays(table.columns, schema=pa.schema(fields))
        folder.write_table(name, other, folder.read_footer(name))
    calls.clear()
    score_folder(folder, ["toy.plain", "toy.other"])
    assert calls["rows", "toy.plain"] == SHARDS["a"] + SHARDS["b"]
    assert calls["rows", "toy.other"] == 100


def test_nothing_is_carried_over_from_other_rows(folder, calls):
    score_folder(folder, ["toy.plain"])
    calls.clear()
    # Embedded again: the same uids, other pixels.
    writer_of(folder.root).commit(
        make_shard("c", 45, seed=50, uids=[f"c-{row // 2}" for row in range(45)], version="2")
    )
    score_folder(folder, ["toy.plain", "toy.other"])
    assert (calls["rows", "toy.plain"], calls["rows", "toy.other"]) == (45, 100)
    batch = pairs_of(folder).read("c", ())
    lengths = read_scores(folder, "toy", "c")["length"].to_pylist()
    assert lengths == pytest.approx(batch.image.norms().tolist(), rel=1e-6)


def test_shards_embedded_again_are_scored_again(folder, calls):
    score_folder(folder, ["toy.plain", "toy.other"])
    calls.clear()
    engine = InProcess()
    score_folder(folder, ["toy.plain", "toy.other"], engine=engine)
    assert engine.ran == []
    writer_of(folder.root).commit(make_shard("b", 2, seed=50, version="2"))
    score_folder(folder, ["toy.plain", "toy.other"], engine=engine)
    assert engine.ran == [("score", 1)]
    assert (calls["rows", "toy.plain"], calls["rows", "toy.other"]) == (2, 2)


def test_a_family_that_a_shard_has_is_not_computed_with_one_that_it_lacks(folder, calls):
    score_folder(folder, ["toy.plain"])
    before = [folder.files.read(name) for name in family_files(folder, "toy")]
    calls.clear()
    score_folder(folder, ["toy.plain", "alone"])
    assert (calls["rows", "toy.plain"], calls["rows", "alone"]) == (0, 100)
    assert [folder.files.read(name) for name in family_files(folder, "toy")] == before


def test_an_interrupted_scoring_goes_on_with_what_is_left(folder, calls):
    scored = score_folder(folder, ["toy.plain"], engine=InProcess(stop_in=0, stop_after=3))
    assert (scored.done, scored.left) == (3, 1)
    assert "toy" not in folder.require_manifest().families
    engine = InProcess()
    assert score_folder(folder, ["toy.plain"], engine=engine).done == 1
    assert engine.ran == [("score", 1)]
    assert calls["rows", "toy.plain"] == 100


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "scorer toy.wrong gave no values of column 'amiss' for 30 rows"),
        ("short", "scorer toy.wrong gave 29 values of column 'amiss' for 30 rows"),
        ("scalar", r"scorer toy.wrong gave values of shape \(\) of column 'amiss' for 30 rows"),
    ],
)
def test_a_scorer_with_a_wrong_column_is_named(folder, calls, how, message):
    with pytest.raises(ValueError, match=message):
        score_folder(folder, ["toy.wrong"], {"toy.wrong": {"how": how}})


STORED: dict[str, dict] = {
    "clip": {},
    "density": {"reference": "20,all,batch40", "k": 3, "lid_k": 5, "texts": True},
    "density.lof": {"reference": 20, "k": 3},
    "density.isolation_forest": {"reference": 20},
}


def test_scores_do_not_depend_on_how_many_rows_are_scored_at_once(folder, calls):
    score_folder(folder, [name for name in STORED if name != "clip"], STORED)
    entries = folder.require_manifest().scorers()
    for name in ("density.lof", "density.isolation_forest"):
        scorer, known = make_scorer(name, STORED[name]), entries[name].learned
        loaded = scorer.load(folder.read_arrays(f"fits/{name}/{known}.npz"), Context(DIM, 100, 1.0))
        for shard in SHARDS:
            batch = pairs_of(folder).read(shard, scorer.needs)
            stored = read_scores(folder, "density", shard)
            for rows in (7, 1000):
                parts = [scorer.score(part, loaded) for part in split_batch(batch, rows)]
                for column in scorer.columns.names:
                    values = np.concatenate([part[column] for part in parts])
                    assert np.array_equal(
                        stored[column].to_numpy(), values.astype(np.float32), equal_nan=True
                    )


# Neighbours as an input


def naive_nearest(folder, shards):
    """Number and distance of the nearest row of `shards` to every row, by a loop; by shard."""
    read = {shard: pairs_of(folder).read(shard, ()).image for shard in folder.shards()}
    rows = [
        (shard, row, vector)
        for shard in shards
        for row, vector in enumerate(read[shard].vectors.astype(np.float64))
    ]
    valid = [bool(read[shard].valid[row]) for shard, row, _ in rows]
    nearest = {}
    for shard, image in read.items():
        for row in np.flatnonzero(image.valid).tolist():
            found = [
                (np.float32(np.linalg.norm(vector - image.vectors[row].astype(np.float64))), number)
                for number, (other, at, vector) in enumerate(rows)
                if valid[number] and (other, at) != (shard, row)
            ]
            nearest[shard, row] = min(found)
    return nearest


def stored_nearest(folder, family, names):
    return {
        (shard, row): (distance, number)
        for shard in folder.shards()
        for row, (number, distance) in enumerate(
            zip(*(read_scores(folder, family, shard)[n].to_pylist() for n in names), strict=True)
        )
        if number is not None
    }


def assert_nearest(stored, expected):
    assert stored.keys() == expected.keys()
    assert {key: n for key, (_, n) in stored.items()} == {k: n for k, (_, n) in expected.items()}
    for key, (distance, _) in stored.items():
        assert distance == pytest.approx(expected[key][0], rel=1e-6, abs=1e-6)


NEAR = ("near_row", "near_distance")


def test_neighbours_of_the_dataset_are_an_input(folder, calls):
    engine = InProcess()
    score_folder(folder, ["toy.nearest"], engine=engine)
    assert [name for name, _ in engine.ran] == ["neighbours", "score"]
    stored = stored_nearest(folder, "toy", Nearest.columns.names)
    assert_nearest(stored, naive_nearest(folder, list(SHARDS)))


def test_two_scorers_read_one_set_of_lists(folder, calls):
    score_folder(folder, ["toy.nearest", "near"])
    assert len(folder.files.list_folders("neighbours")) == 1
    assert stored_nearest(folder, "near", NEAR) == stored_nearest(
        folder, "toy", Nearest.columns.names
    )


def test_equal_lists_among_other_shards_are_kept_apart(folder, calls):
    score_folder(folder, ["toy.nearest"])
    early = naive_nearest(folder, list(SHARDS))
    writer_of(folder.root).commit(make_shard("later", 20, seed=77))
    # `near` is new and looks among all shards, `toy.nearest` stays among those it began with.
    score_folder(folder, ["toy.nearest", "near"])
    assert len(folder.files.list_folders("neighbours")) == 2
    toy = stored_nearest(folder, "toy", Nearest.columns.names)
    late = naive_nearest(folder, list(SHARDS))
    assert {key: late[key] for key in early} == early
    assert_nearest(toy, late)
    everything = naive_nearest(folder, [*SHARDS, "later"])
    assert_nearest(stored_nearest(folder, "near", NEAR), everything)
    assert everything != late  # or the test tests nothing


def test_density_of_the_whole_dataset_equals_a_naive_loop(folder):
    score_folder(folder, ["density"], {"density": {"reference": "all", "k": 3, "lid_k": 5}})
    vectors, keys = [], []
    for shard in SHARDS:
        image = pairs_of(folder).read(shard, ()).image
        for row in np.flatnonzero(image.valid).tolist():
            vectors.append(image.vectors[row].astype(np.float64))
            keys.append((shard, row))
    distances = np.array(
        [
            np.sort([np.linalg.norm(v - o) for at, o in enumerate(vectors) if at != own])[:3]
            for own, v in enumerate(vectors)
        ]
    )
    expected = dict(zip(keys, k_distance(distances, 3), strict=True))
    for shard, rows in SHARDS.items():
        stored = read_scores(folder, "density", shard)["density_kdist"].to_pylist()
        for row in range(rows):
            if (shard, row) in expected:
                assert stored[row] == pytest.approx(expected[shard, row], rel=1e-5)
            else:
                assert stored[row] is None


def test_shards_without_rows_are_scored(tmp_path, calls):
    folder = make_folder(tmp_path / "empty", [make_shard("none", 0), make_shard("some", 4)])
    names = ["toy.plain", "toy.two_passes", "toy.nearest", "density"]
    score_folder(folder, names, {"density": {"reference": "20,all", "k": 2, "lid_k": 2}})
    assert read_scores(folder, "toy", "none").num_rows == 0
    assert read_scores(folder, "density", "none").num_rows == 0
    assert read_scores(folder, "toy", "some")["position"].to_pylist() == [0, 1, 2, 3]


def test_a_scored_shard_leaves_a_record(folder, calls):
    score_folder(folder, ["toy.plain"])
    records = folder.files.list_files("_runs/run.shards")
    assert len(records) == len(SHARDS)


def test_folders_of_the_same_shards_get_the_same_files(tmp_path, folder, calls):
    twin = make_folder(tmp_path / "twin", varied_shards()[::-1])
    for each in (folder, twin):
        score_folder(each, ["toy.plain", "density"], {"density": {"reference": "20,all", "k": 3}})
    for family in ("toy", "density"):
        assert family_files(folder, family) == family_files(twin, family)
        for name in family_files(folder, family):
            assert folder.read_table(name).equals(twin.read_table(name), check_metadata=True)


# Texts that are encoded where scores are computed


REFERENCES = [["a small cat", "a cat"], None, [], ["", "a dog"], ["a red dot"]]


@pytest.fixture
def tiny_folder(tmp_path):
    """An output folder of the tiny model with reference captions, and made-up embeddings."""
    identity, _ = identify("tiny", None, "float32")
    carried = pa.table({"refs": pa.array(REFERENCES)})
    shards = [
        make_shard("a", 5, no_text=[1], no_image=[3], carried=carried, dim=128),
        make_shard("b", 2, seed=1, dim=128, carried=carried.slice(3)),
    ]
    folder = make_folder(tmp_path / "tiny", shards, identity)
    manifest = folder.require_manifest()
    entry = InputEntry(("/in/*.parquet",), {"references_col": "refs"})
    folder.save_manifest(manifest.with_input(entry))
    return folder


def naive_cosine(one, other):
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / np.sqrt(one @ one) / np.sqrt(other @ other))


def test_captions_and_references_are_encoded_with_the_prompt_of_the_scorer(tiny_folder):
    score_folder(tiny_folder, ["clip_depicts", "clip_ref"])
    encoder = Encoder(load_model("tiny", None, torch.device("cpu"), "float32"))

    def encode(text):
        return encoder.encode_texts([PAPER_PROMPT + text])[0]

    for shard, references in (("a", REFERENCES), ("b", REFERENCES[3:])):
        batch = pairs_of(tiny_folder).read(shard, (Input.CAPTION, Input.IMAGE_EMBEDDING))
        depicts = read_scores(tiny_folder, "clip_depicts", shard).to_pydict()
        ref = read_scores(tiny_folder, "clip_ref", shard).to_pydict()
        for row, caption in enumerate(batch.captions):
            text = None if caption is None else encode(caption)
            own = [encode(each) for each in references[row] or [] if each]
            similarity, highest, ref_score = None, None, None
            if text is not None and batch.image.valid[row]:
                similarity = naive_cosine(batch.image.vectors[row], text)
            if text is not None and own:
                highest = max(naive_cosine(text, each) for each in own)
            if similarity is not None and highest is not None:
                score, positive = 2.5 * max(similarity, 0), max(highest, 0)
                total = score + positive
                ref_score = 2 * score * positive / total if total else 0.0
            clip = None if similarity is None else 2.5 * max(similarity, 0)
            for stored, expected in (
                (depicts["clip_similarity_depicts"][row], similarity),
                (depicts["clip_score_depicts"][row], clip),
                (ref["clip_reference_similarity"][row], highest),
                (ref["ref_clip_score"][row], ref_score),
            ):
                assert stored == (None if expected is None else pytest.approx(expected, abs=1e-5))


def test_without_a_column_of_references_they_cannot_be_compared(tiny_folder):
    manifest = tiny_folder.require_manifest()
    tiny_folder.save_manifest(dataclasses.replace(manifest, inputs=()))
    with pytest.raises(UsageError, match=r"clip_ref needs reference captions.*--references-col"):
        score_folder(tiny_folder, ["clip_ref"])
