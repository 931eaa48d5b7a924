"""Accepted predicates: their canonical text, and what they say of rows against plain Python."""

import datetime
import unicodedata
from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.sql.locked import LockedDuckDB
from clipsieve.sql.predicate import Predicate, read_predicate

#: NULL and NaN, ties at 0.3 as float32, white space and letters beyond ASCII, a name to be quoted.
ROWS = [
    # score, cosine, width, height, caption, language, ok, count, taken
    (0.3, 0.30000001, 640, 480, "a red  cat", "en", True, 3, "2024-01-01"),
    (0.7, 0.5, 100, 400, "Zürich\u3000am\u00a0See", "de", True, -7, "2023-06-30"),
    (None, float("nan"), 200, 200, "", "en", False, 0, None),
    (0.29999998, -0.25, 600, 200, "100% off!!", None, None, None, "2024-02-29"),
    (float("nan"), 0.3, 601, 200, None, "EN", True, 12, "1999-12-31"),
    (0.95, 1.0, None, 512, "IMG_0001.JPG", "fr", False, 2**40, "2025-01-01"),
    (-0.1, 0.0, 1, 1, "猫 и кошка\n42", "en", True, 1, "2024-01-02"),
]
NAMES = ("clip_score", "cosine", "w", "h", "caption", "language", "ok", "Count of", "taken")
SCHEMA = pa.schema(
    [
        ("clip_score", pa.float32()),
        ("cosine", pa.float64()),
        ("w", pa.int32()),
        ("h", pa.int32()),
        ("caption", pa.string()),
        ("language", pa.string()),
        ("ok", pa.bool_()),
        ("Count of", pa.int64()),
        ("taken", pa.date32()),
    ]
)


def date(text):
    return None if text is None else datetime.date.fromisoformat(text)


def table() -> pa.Table:
    rows = [(*row[:-1], date(row[-1])) for row in ROWS]
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type, from_pandas=False) for c, f in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


class Row:
    """A row for plain Python: NULL and NaN are None, and so is what is made of them."""

    def __init__(self, row):
        values = [None if value != value else value for value in (*row[:-1], date(row[-1]))]
        score = values[0]
        self.score = None if score is None else np.float32(score)
        self.cosine, self.w, self.h, self.caption, self.language, self.ok = values[1:7]
        self.count, self.taken = values[7:]


def known(function):
    """Return a function of a row, None where it meets None in an operation."""

    def of(row):
        try:
            return bool(function(row))
        except (TypeError, AttributeError):
            return None

    return of


def both(*parts):
    """SQL's AND: false if a part is, else None if a part is."""
    return False if False in parts else None if None in parts else True


def either(*parts):
    """SQL's OR."""
    return True if True in parts else None if None in parts else False


def letters(text):
    return sum(unicodedata.category(c).startswith("L") for c in text)


def at_least(value, cut):
    """Comparison as float32, in which DuckDB compares a float32 column with a number."""
    return None if value is None else bool(value >= np.float32(cut))


ACCEPTED = [
    ("clip_score >= 0.3", "clip_score >= 0.3", lambda r: at_least(r.score, 0.3)),
    ("0.3 <= clip_score", "0.3 <= clip_score", lambda r: at_least(r.score, 0.3)),
    ("clip_score > 0.3", "clip_score > 0.3", known(lambda r: r.score > np.float32(0.3))),
    ("clip_score<.3", "clip_score < .3", known(lambda r: r.score < np.float32(0.3))),
    ("clip_score = 0.3", "clip_score = 0.3", known(lambda r: r.score - np.float32(0.3) == 0)),
    (
        "clip_score::DOUBLE > 0.3",
        "CAST(clip_score AS DOUBLE) > 0.3",
        known(lambda r: float(r.score) > 0.3),
    ),
    ("cosine >= 0.3", "cosine >= 0.3", known(lambda r: r.cosine >= 0.3)),
    ("cosine > 3e-1", "cosine > 3e-1", known(lambda r: r.cosine > 0.3)),
    ("COSINE > 0", "cosine > 0", known(lambda r: r.cosine > 0)),
    ("cosine > -0.5", "cosine > -0.5", known(lambda r: r.cosine > -0.5)),
    ("-cosine < 0", "(-(cosine)) < 0", known(lambda r: -r.cosine < 0)),
    ("clip_score IS NULL", "clip_score IS NULL", lambda r: r.score is None),
    ("clip_score IS NOT NULL", "clip_score IS NOT NULL", lambda r: r.score is not None),
    ("cosine IS NULL", "cosine IS NULL", lambda r: r.cosine is None),
    (
        "clip_score >= 0.3 OR clip_score IS NULL",
        "(clip_score >= 0.3) OR (clip_score IS NULL)",
        lambda r: r.score is None or at_least(r.score, 0.3),
    ),
    (
        "coalesce(cosine, 0) >= 0",
        "COALESCE(cosine, 0) >= 0",
        lambda r: r.cosine is None or r.cosine >= 0,
    ),
    (
        "ifnull(cosine, -1) >= 0",
        "COALESCE(cosine, -1) >= 0",
        lambda r: r.cosine is not None and r.cosine >= 0,
    ),
    (
        "nullif(w, 200) > 0",
        '"nullif"(w, 200) > 0',
        lambda r: None if r.w in (None, 200) else r.w > 0,
    ),
    ("NOT ok", "NOT ok", lambda r: None if r.ok is None else not r.ok),
    ("ok", "ok", lambda r: r.ok),
    ("ok IS NOT TRUE", "CAST(ok AS BOOLEAN) IS DISTINCT FROM true", lambda r: r.ok is not True),
    ("ok = (w > 150)", "ok = (w > 150)", known(lambda r: r.ok + 0 == (r.w > 150))),
    (
        "w >= 200 AND h >= 200",
        "(w >= 200) AND (h >= 200)",
        lambda r: both(at_least(r.w, 200), r.h >= 200),
    ),
    (
        "(w >= 200 OR ok) AND NOT (language = 'en')",
        "((w >= 200) OR ok) AND (NOT (\"language\" = 'en'))",
        lambda r: both(
            either(at_least(r.w, 200), r.ok),
            None if r.language is None else r.language != "en",
        ),
    ),
    (
        "greatest(w, h) / least(w, h) <= 3.0",
        "(greatest(w, h) / least(w, h)) <= 3.0",
        # DuckDB leaves NULL out of both.
        lambda r: max(x for x in (r.w, r.h) if x) / min(x for x in (r.w, r.h) if x) <= 3.0,
    ),
    ("w / h <= 3", "(w / h) <= 3", known(lambda r: r.w / r.h <= 3)),
    ("w // h = 3", "(w // h) = 3", known(lambda r: r.w // r.h == 3)),
    ("w % 2 = 1", "(w % 2) = 1", known(lambda r: r.w % 2 == 1)),
    ("mod(w, 2) = 1", "mod(w, 2) = 1", known(lambda r: r.w % 2 == 1)),
    ("w * h >= 40000", "(w * h) >= 40000", known(lambda r: r.w * r.h >= 40000)),
    ("w BETWEEN 100 AND 600", "w BETWEEN 100 AND 600", known(lambda r: 100 <= r.w <= 600)),
    (
        "w NOT BETWEEN 100 AND 600",
        "NOT (w BETWEEN 100 AND 600)",
        known(lambda r: not 100 <= r.w <= 600),
    ),
    (
        "w IN (1, 200, 640)",
        "w IN (1, 200, 640)",
        lambda r: None if r.w is None else r.w in (1, 200, 640),
    ),
    (
        "w NOT IN (1, 200)",
        "NOT (w IN (1, 200))",
        lambda r: None if r.w is None else r.w not in (1, 200),
    ),
    ('abs("Count of") > 5', 'abs("Count of") > 5', known(lambda r: abs(r.count) > 5)),
    ('"count OF" > 1_000', '"Count of" > 1_000', known(lambda r: r.count > 1000)),
    ("sqrt(w) >= 10", "sqrt(w) >= 10", known(lambda r: r.w**0.5 >= 10)),
    (
        "round(clip_score, 1) = 0.3",
        "round(clip_score, 1) = 0.3",
        known(lambda r: round(float(r.score), 1) == 0.3),
    ),
    ("floor(cosine) = -1", "floor(cosine) = -1", known(lambda r: r.cosine // 1 == -1)),
    ("pow(w, 2) > 1e5", "pow(w, 2) > 1e5", known(lambda r: r.w**2 > 1e5)),
    ("language = 'en'", "\"language\" = 'en'", lambda r: r.language and r.language == "en"),
    ("language != 'en'", "\"language\" != 'en'", lambda r: r.language and r.language != "en"),
    ("language <> 'en'", "\"language\" != 'en'", lambda r: r.language and r.language != "en"),
    (
        "lower(language) == 'en'",
        "lower(\"language\") = 'en'",
        known(lambda r: r.language.lower() == "en"),
    ),
    (
        "language IN ('en', 'de')",
        "\"language\" IN ('en', 'de')",
        lambda r: None if r.language is None else r.language in ("en", "de"),
    ),
    (
        "language IS DISTINCT FROM 'en'",
        "\"language\" IS DISTINCT FROM 'en'",
        lambda r: r.language != "en",
    ),
    ("caption LIKE '%a%'", "caption ~~ '%a%'", known(lambda r: "a" in r.caption + "")),
    ("caption NOT LIKE '%a%'", "caption !~~ '%a%'", known(lambda r: "a" not in r.caption + "")),
    (
        "caption ILIKE 'img%'",
        "caption ~~* 'img%'",
        known(lambda r: r.caption.lower().startswith("img")),
    ),
    (
        "caption LIKE '%0!%%' ESCAPE '!'",
        "like_escape(caption, '%0!%%', '!')",
        known(lambda r: "0%" in r.caption + ""),
    ),
    (
        "contains(caption, 'cat')",
        "contains(caption, 'cat')",
        known(lambda r: "cat" in r.caption + ""),
    ),
    (
        "starts_with(caption, 'IMG_')",
        "starts_with(caption, 'IMG_')",
        known(lambda r: r.caption.startswith("IMG_")),
    ),
    (
        "regexp_matches(caption, '[0-9]+')",
        "regexp_matches(caption, '[0-9]+')",
        known(lambda r: {*r.caption} & {*"0123456789"}),
    ),
    ("length(caption) > 5", "length(caption) > 5", known(lambda r: len(r.caption) > 5)),
    ("strlen(caption) > 13", "strlen(caption) > 13", known(lambda r: len(r.caption.encode()) > 13)),
    ("caption = ''", "caption = ''", known(lambda r: len(r.caption) == 0)),
    (
        "caption = 'it''s' OR ok",
        "(caption = 'it''s') OR ok",
        lambda r: either(None if r.caption is None else False, r.ok),
    ),
    (
        "left(caption, 3) = 'IMG'",
        "\"left\"(caption, 3) = 'IMG'",
        known(lambda r: r.caption[:3] == "IMG"),
    ),
    (
        "trim(caption) = caption",
        '"trim"(caption) = caption',
        known(lambda r: r.caption.strip() == r.caption),
    ),
    (
        "caption || language = 'en'",
        "(caption || \"language\") = 'en'",
        known(lambda r: r.caption + r.language == "en"),
    ),
    (
        "concat(caption, language) = 'en'",
        "concat(caption, \"language\") = 'en'",
        lambda r: (r.caption or "") + (r.language or "") == "en",
    ),
    (
        "word_count(caption) > 2",
        "word_count(caption) > 2",
        known(lambda r: len(r.caption.split()) > 2),
    ),
    (
        "letter_share(caption) >= 0.75",
        "letter_share(caption) >= 0.75",
        lambda r: letters(r.caption) >= 0.75 * len(r.caption) if r.caption else None,
    ),
    (
        "CASE WHEN ok THEN w > 150 ELSE h > 400 END",
        "CASE  WHEN (ok) THEN ((w > 150)) ELSE (h > 400) END",
        lambda r: at_least(r.w, 151) if r.ok else r.h > 400,
    ),
    (
        "taken >= '2024-01-01'",
        "taken >= '2024-01-01'",
        known(lambda r: r.taken >= datetime.date(2024, 1, 1)),
    ),
    ("year(taken) = 2024", '"year"(taken) = 2024', known(lambda r: r.taken.year == 2024)),
    (
        "extract(month FROM taken) = 1",
        "date_part('MONTH', taken) = 1",
        known(lambda r: r.taken.month == 1),
    ),
    (
        "TRY_CAST(caption AS INTEGER) IS NULL",
        "TRY_CAST(caption AS INTEGER) IS NULL",
        lambda r: True,
    ),
    ("ok -- AND false", "ok", lambda r: r.ok),
    (
        "ok /* AND false */ AND w > 150",
        "(ok) AND (w > 150)",
        lambda r: both(r.ok, at_least(r.w, 151)),
    ),
    ("((((ok))))", "ok", lambda r: r.ok),
    ("1e-999999999 < cosine", "1e-999999999 < cosine", known(lambda r: r.cosine > 0)),
    ("clip_score\u00a0> 0.3", "clip_score > 0.3", known(lambda r: r.score > np.float32(0.3))),
]


@cache
def database() -> LockedDuckDB:
    return LockedDuckDB()


def mask(predicate: Predicate) -> list[bool | None]:
    """What the predicate says of each row, by its canonical text."""
    (values,) = database().evaluate(table(), [predicate.text])
    result: list[bool | None] = values.to_pylist()
    return result


def test_there_are_many_accepted_predicates():
    assert len({text for text, _, _ in ACCEPTED}) == len(ACCEPTED) >= 60


@pytest.mark.parametrize(("text", "canonical", "of_row"), ACCEPTED, ids=[a[0] for a in ACCEPTED])
def test_canonical_text_and_mask(text, canonical, of_row):
    predicate = read_predicate(text, SCHEMA)
    assert predicate.text == canonical
    assert read_predicate(canonical, SCHEMA).text == canonical
    assert mask(predicate) == [of_row(Row(row)) for row in ROWS]
