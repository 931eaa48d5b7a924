"""Where everything lies; readers of the folder in any language rely on it."""

import pytest

from clipsieve.store import names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B-32", "ViT-B-32"),
        ("hf-hub:org/name", "hf-hub_org_name"),
        ("../../etc/passwd", "etc_passwd"),
        ("///", "_"),
        ("", "_"),
        ("a  b", "a_b"),
        ("grün'--", "gr_n_--"),
    ],
)
def test_slug_is_a_safe_folder_name(name, expected):
    assert names.slug(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (names.MANIFEST, "dataset.json"),
        (names.samples("00000"), "samples/00000.parquet"),
        (names.embeddings_folder("tiny", "0a"), "embeddings/tiny/rev=0a"),
        (names.family_folder("clip", "0b"), "scores/clip/rev=0b"),
        (names.scores("clip", "0b", "00000"), "scores/clip/rev=0b/00000.parquet"),
        (names.wide_folder("0c"), "wide/build=0c"),
        (names.audit("groups"), "audits/groups.parquet"),
        (names.fit("density", "0e"), "fits/density/0e.npz"),
        (names.fit("density", "0e", 2), "fits/density/0e.pass2.npz"),
        (names.fit_description("density", "0e"), "fits/density/0e.json"),
        (names.prompts("tiny", "0a", "0f"), "prompts/tiny/rev=0a/0f.npz"),
        (names.neighbours_folder("1a"), "neighbours/1a"),
        (names.neighbour_lists("1a", "text", "00000"), "neighbours/1a/text/00000.parquet"),
        (names.neighbours_description("1a"), "neighbours/1a/set.json"),
        (names.subset_manifest("keep"), "subsets/keep/subset.json"),
        (names.dropped("keep", "1b", "00000"), "subsets/keep/rev=1b/dropped/00000.parquet"),
        (names.removal_list("gone"), "removals/gone/list.json"),
        (names.removal_ids("gone"), "removals/gone/ids.parquet"),
        (names.removed("1c", "00000"), "removals/rev=1c/00000.parquet"),
        (names.subset_table("keep", "1b", "funnel"), "subsets/keep/rev=1b/funnel.parquet"),
    ],
)
def test_everything_has_its_place(name, expected):
    assert name == expected


def test_every_place_is_below_a_folder_that_is_swept():
    places = [
        names.RUNS,
        names.SQL,
        names.samples("a"),
        names.embeddings_folder("m", "0"),
        names.scores("f", "0", "a"),
        names.wide_folder("0"),
        names.audit("groups"),
        names.fit("s", "0"),
        names.prompts("m", "0", "0"),
        names.neighbours_folder("0"),
        names.DATASET_METRICS,
        names.kept("keep", "0", "a"),
        names.removed("0", "a"),
    ]
    assert {place.split("/")[0] for place in places} == set(names.FOLDERS)
