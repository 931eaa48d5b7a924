"""Shipped recipes keep the rows that the published rules keep, written here once more in Python."""

import io
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from clipsieve.errors import UsageError
from clipsieve.select.recipes import KEEPS_EVERY_ROW, load_recipe, recipe_names
from clipsieve.sql.locked import LockedDuckDB
from clipsieve.sql.predicate import read_predicate

SPACES = " \t\n\r\x0b\x0c\x00\x1c\x85\xa0\u2003\u3000"
LETTERS = "aZé猫9-"
ROWS = 400


@cache
def database() -> LockedDuckDB:
    return LockedDuckDB()


def dataset(seed: int, constant: bool = False, nulls: bool = False) -> pa.Table:
    """Return random rows with ties, odd sizes and captions, and every kind of white space."""
    rng = np.random.default_rng(seed)

    def scores():
        values = np.round(rng.normal(0.28, 0.03, ROWS), 2).astype(np.float32)
        return np.full(ROWS, np.float32(0.28)) if constant else values

    def caption():
        alphabet = list(LETTERS * 4 + SPACES)
        return "".join(rng.choice(alphabet, size=rng.integers(0, 14)))

    def masked(values, kind):
        missing = rng.random(ROWS) < (0.2 if nulls else 0)
        return pa.array([None if m else v for v, m in zip(values, missing, strict=True)], kind)

    sizes = [1, 66, 67, 199, 200, 201, 599, 600, 601, 603, 604, 2000]
    return pa.table(
        {
            "uid": [rng.bytes(16).hex() for _ in range(ROWS)],
            "caption": masked([caption() for _ in range(ROWS)], pa.string()),
            "clip_b32_similarity_score": masked(scores().tolist(), pa.float32()),
            "clip_l14_similarity_score": masked(scores().tolist(), pa.float32()),
            "original_width": masked(rng.choice(sizes, ROWS).tolist(), pa.int64()),
            "original_height": masked(rng.choice(sizes, ROWS).tolist(), pa.int64()),
            "image_width": pa.array(np.full(ROWS, 224), pa.int32()),
            "image_height": pa.array(np.full(ROWS, 224), pa.int32()),
            "language": masked(
                rng.choice(["en", "de", "EN", ""], ROWS, p=[0.7, 0.1, 0.1, 0.1]), pa.string()
            ),
            "caption_has_word": masked((rng.random(ROWS) < 0.5).tolist(), pa.bool_()),
            "image_cluster_is_target": masked((rng.random(ROWS) < 0.5).tolist(), pa.bool_()),
            "aesthetic": masked(np.round(rng.normal(5, 1, ROWS), 1).tolist(), pa.float32()),
            "duplicate_group": masked(rng.integers(0, 90, ROWS).tolist(), pa.uint64()),
            "duplicate_first": pa.array(rng.random(ROWS) < 0.4),
            "duplicate_bytes_group": masked(rng.integers(0, 90, ROWS).tolist(), pa.uint64()),
            "duplicate_bytes_first": pa.array(rng.random(ROWS) < 0.4),
        }
    )


def kept_by_recipe(name: str, table: pa.Table, **parameters: str) -> list[str]:
    """Return the uids that a recipe keeps."""
    text = load_recipe(name).predicate_text(parameters, table.schema)
    if not text:
        return table["uid"].to_pylist()
    predicate = read_predicate(text, table.schema)
    thresholds = {}
    for number, quantity in enumerate(predicate.quantities):
        assert quantity.group is None
        (values,) = database().evaluate(table, [quantity.value])
        descending = np.sort(values.drop_null().to_numpy())[::-1]
        value = descending[quantity.rank(len(descending)) - 1]
        thresholds[number] = repr(float(value))
    sql = [clause.sql for clause in predicate.resolved(thresholds)]
    kept = pa.array(np.full(len(table), True))
    for values in database().evaluate(table, sql):
        kept = pc.and_(kept, pc.fill_null(values, False))
    return table["uid"].filter(kept).to_pylist()


# The published rules, row by row


def is_english(row):
    return row["language"] == "en"


def count_words(text):
    return len(text.split())


def count_tokens(text):
    """Tokens as fastText reads them: a line break is one, other white space ends one."""
    spaced = text.replace("\n", " \n ")
    for space in "\t\r\v\f\0":
        spaced = spaced.replace(space, " ")
    return sum(word != "" for word in spaced.split(" "))


def has_size(row, width, height):
    w, h = row[width], row[height]
    if w is None or h is None:
        return False
    return min(w, h) >= 200 and max(w, h) / min(w, h) <= 3.0


def has_caption(row, count, more_than):
    text = row["caption"]
    return text is not None and count(text) > more_than and len(text) > 5


def above(row, column, cut):
    """DataComp's `df[key] >= cut`, which compares a float32 column in float32."""
    return row[column] is not None and bool(np.float32(row[column]) >= np.float32(cut))


def top(table, column, fraction):
    """DataComp's get_threshold."""
    scores = np.array([s for s in table[column].to_pylist() if s is not None], np.float32)
    return -np.sort(-scores)[int(len(scores) * fraction)]


def letter_share(text):
    return sum(char.isalpha() for char in text) / len(text) if text else 0


B32, L14 = "clip_b32_similarity_score", "clip_l14_similarity_score"
ORIGINAL = {"width": "original_width", "height": "original_height"}


def image_based(row):
    return (
        is_english(row)
        and has_caption(row, count_tokens, 1)
        and row["image_cluster_is_target"] is True
    )


def first_of(row, kind):
    return row[f"{kind}_first"]


#: Recipe, parameters, and the rule, which sees a row and the whole table.
RULES = [
    ("datacomp.no_filter", {}, lambda row, table: True),
    (
        "datacomp.basic",
        ORIGINAL,
        lambda row, table: (
            is_english(row)
            and has_caption(row, count_words, 2)
            and has_size(row, "original_width", "original_height")
        ),
    ),
    (
        "datacomp.basic",
        {},
        lambda row, table: is_english(row) and has_caption(row, count_words, 2),
    ),
    (
        "datacomp.text_based",
        {},
        lambda row, table: is_english(row) and row["caption_has_word"] is True,
    ),
    ("datacomp.clip_l14_top30", {}, lambda row, table: above(row, L14, top(table, L14, 0.3))),
    ("datacomp.clip_b32_top30", {}, lambda row, table: above(row, B32, top(table, B32, 0.3))),
    (
        "datacomp.clip_l14_top30",
        {"fraction": "0.07"},
        lambda row, table: above(row, L14, top(table, L14, 0.07)),
    ),
    (
        "datacomp.clip_l14_top30",
        {"similarity": B32, "fraction": "0.9"},
        lambda row, table: above(row, B32, top(table, B32, 0.9)),
    ),
    ("datacomp.clip_b32_threshold", {}, lambda row, table: above(row, B32, 0.25)),
    ("datacomp.clip_l14_threshold", {"threshold": "0.3"}, lambda row, table: above(row, L14, 0.3)),
    ("datacomp.laion2b", {}, lambda row, table: is_english(row) and above(row, B32, 0.28)),
    ("datacomp.image_based", {}, lambda row, table: image_based(row)),
    (
        "datacomp.image_based_clip_l14_top30",
        {},
        lambda row, table: above(row, L14, top(table, L14, 0.3)) and image_based(row),
    ),
    ("laion2b", {}, lambda row, table: is_english(row) and above(row, B32, 0.28)),
    ("laion400m", {}, lambda row, table: is_english(row) and above(row, B32, 0.3)),
    (
        "laion2b",
        {"english": "de", "threshold": ".26"},
        lambda row, table: row["language"] == "de" and above(row, B32, 0.26),
    ),
    ("laion_aesthetics", {}, lambda row, table: above(row, "aesthetic", 5)),
    ("laion_aesthetics", {"threshold": "4.5"}, lambda row, table: above(row, "aesthetic", 4.5)),
    (
        "cc.text",
        {},
        lambda row, table: (
            is_english(row)
            and row["caption"] is not None
            and 3 <= count_words(row["caption"]) <= 256
            and letter_share(row["caption"]) >= 0.5
        ),
    ),
    ("dedup.exact", {}, lambda row, table: first_of(row, "duplicate_bytes")),
    ("dedup.near", {}, lambda row, table: first_of(row, "duplicate")),
]
KINDS = {"plain": {}, "constant": {"constant": True}, "nulls": {"nulls": True}}


def npy_of_datacomp(uids: list[str]) -> bytes:
    """Bytes of the subset file as DataComp's baselines write it."""
    pairs = [(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids]
    array = np.array(pairs, np.dtype("u8,u8"))
    array.sort()
    with io.BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


def npy_of_integers(uids: list[str]) -> bytes:
    """The same from whole uids: header and big numbers in order, by hand."""
    numbers = sorted(int(uid, 16) for uid in uids)
    descr, shape = "[('f0', '<u8'), ('f1', '<u8')]", f"({len(numbers)},)"
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    padding = -(10 + len(header) + 1) % 64
    content = b"".join(
        (number >> 64).to_bytes(8, "little") + (number % 2**64).to_bytes(8, "little")
        for number in numbers
    )
    text = (header + " " * padding + "\n").encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(len(RULES)), ids=[name for name, _, _ in RULES])
def test_a_recipe_keeps_what_its_rule_keeps(number, kind):
    name, parameters, rule = RULES[number]
    for seed in range(3):
        table = dataset(seed, **KINDS[kind])
        expected = [row["uid"] for row in table.to_pylist() if rule(row, table)]
        kept = kept_by_recipe(name, table, **parameters)
        assert kept == expected
        assert npy_of_datacomp(expected) == npy_of_integers(kept)
        if kind == "plain":
            assert 0 < len(kept) < ROWS or name == KEEPS_EVERY_ROW


def test_every_shipped_recipe_has_a_rule_here():
    assert recipe_names() == sorted({name for name, _, _ in RULES})
    assert len([name for name in recipe_names() if name.startswith("datacomp.")]) >= 8


def test_the_top_30_percent_are_n_plus_1_rows_and_ties():
    scores = pa.array(np.arange(10) / 10, pa.float32())
    table = pa.table({"uid": [str(n) for n in range(10)], L14: scores})
    assert kept_by_recipe("datacomp.clip_l14_top30", table) == ["6", "7", "8", "9"]
    table = pa.table({"uid": list("abcd"), L14: pa.array([0.3, 0.3, 0.3, 0.1], pa.float32())})
    assert kept_by_recipe("datacomp.clip_l14_top30", table) == ["a", "b", "c"]


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_says_what_it_is_and_where_it_comes_from(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".") and "\n" not in recipe.description
    assert len(recipe.source) > 20
    assert bool(recipe.where) == (name != KEEPS_EVERY_ROW)
    # A column is described by its kind, for the error where it is missing.
    assert {text.partition(":")[0] for text in recipe.columns.values()} <= {
        "number",
        "text",
        "true or false",
    }


def test_a_missing_column_says_what_it_must_be_and_what_makes_it():
    table = dataset(0).drop_columns([L14, "image_cluster_is_target", "duplicate_group"])
    for name, column, cure in [
        ("datacomp.clip_l14_top30", L14, "--model ViT-L-14 --pretrained openai"),
        ("datacomp.image_based", "image_cluster_is_target", "the scorer datacomp.image_cluster"),
        ("dedup.near", "duplicate_group", "clipsieve score OUT --scorers duplicates"),
    ]:
        with pytest.raises(UsageError) as error:
            load_recipe(name).predicate_text({}, table.schema)
        assert f"recipe {name} reads column '{column}', which is not there" in str(error.value)
        assert cure in str(error.value)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UsageError, match=r"'datacomp\.clip_l14' is not known \(did you mean datac"):
        load_recipe("datacomp.clip_l14")
    with pytest.raises(UsageError, match="'zzz' is not known; `clipsieve filter --recipes`"):
        load_recipe("zzz")
    for name in ["", "../recipes/laion2b", "laion2b.toml/", "LAION2B\0"]:
        with pytest.raises(UsageError, match="is not known"):
            load_recipe(name)
