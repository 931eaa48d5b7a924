"""Mistakes in predicates: each is refused with the value, the place and the cure."""

import pyarrow as pa
import pytest

from clipsieve.errors import UsageError
from clipsieve.sql.allowed import MAX_JOINED
from clipsieve.sql.predicate import MAX_CLAUSES, read_predicate

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("caption", pa.string()),
        ("clip_score", pa.float32()),
        ("clip_similarity", pa.float32()),
        ("k", pa.int64()),
        ("ok", pa.bool_()),
        ("language", pa.string()),
        ("taken", pa.date32()),
        ("words", pa.list_(pa.string())),
        ("duplicate_group", pa.string()),
        ("duplicate_first", pa.bool_()),
        ("lonely_group", pa.string()),
    ]
)
MAKERS = {"ood_vim": "the scorer ood.vim makes it: clipsieve score OUT --scorers ood.vim"}

FRACTION = "must be above 0 and at most 1"
SHARE = "must be at least 0 and at most 1"
WHOLE = "must be compared with a whole number by <, <=, > or >="

REFUSED = [
    # Columns
    ("clip_scor >= 0.7", "'clip_scor', which is not there; did you mean clip_score"),
    ("Clip_Similarty > 0.3", "did you mean clip_similarity"),
    ("ood_vim < 1", "which is not there; the scorer ood.vim makes it: clipsieve score OUT"),
    ("OOD_VIM < 1", "the scorer ood.vim makes it"),
    ("zzzzzz < 1", "`FROM score_columns` lists the scores"),
    ('caption = "en"', "names column 'en', which is not there"),
    ("top_fraction(clip_scor, 0.3)", "did you mean clip_score"),
    ("top_fraction(clip_score, 0.3, langage)", "did you mean language"),
    # Functions
    ("lenght(caption) > 3", "where calls lenght, which predicates may not; did you mean length"),
    ("topfraction(k, 0.3)", "did you mean top_fraction"),
    ("word_count(k) > 2", "BIGINT"),
    ("word_count(caption, 2) > 2", "does not support the supplied arguments"),
    ("word_count() > 2", "does not support the supplied arguments"),
    # No condition
    ("k", "k is BIGINT, not true or false; compare it with something"),
    ("clip_score", "clip_score is FLOAT, not true or false"),
    ("caption", "caption is VARCHAR, not true or false"),
    ("NULL", "not true or false"),
    ("word_count(caption)", "is BIGINT, not true or false"),
    ("quantile_of(clip_score, 0.3)", "is FLOAT, not true or false"),
    ("ok AND k", "k is BIGINT, not true or false"),
    ("ok OR k", "k is BIGINT, not true or false"),
    ("NOT k", "k is BIGINT, not true or false"),
    ("NOT (ok OR clip_score)", "clip_score is FLOAT, not true or false"),
    ("CASE WHEN ok THEN k OR ok ELSE ok END", "k is BIGINT, not true or false"),
    # Types
    ("caption = 3", "caption is VARCHAR, 3 is INTEGER; quote text, and leave numbers bare"),
    ("caption > 3", "caption is VARCHAR, 3 is INTEGER; quote text, and leave numbers bare"),
    ("ok = (caption > 3)", "caption is VARCHAR, 3 is INTEGER; quote text"),
    ("caption = ok", "compares text with something else"),
    ("language IN ('en', 3)", "compares text with something else"),
    ("k BETWEEN caption AND 'a'", "k is BIGINT, caption is VARCHAR; quote text"),
    ("k = 'a'", "Could not convert string 'a' to INT64"),
    ("clip_score > 'high'", "Could not convert string 'high' to FLOAT"),
    ("taken > 'yesterday'", "expected format is (YYYY-MM-DD)"),
    ("top_fraction(clip_score, 0.3) > 0.5", "Cannot compare values of type BOOLEAN"),
    # Always the same
    ("true", "true is always true; leave it out"),
    ("false", "false is always false"),
    ("1 = 1", "1 = 1 is always true"),
    ("'a' = 'b'", "is always false"),
    ("NOT 1 = 1", "is always false"),
    ("ok AND 2 > 1", "2 > 1 is always true"),
    ("ok OR true", "ok OR true is always true"),
    ("ok OR 2 > 1", "is always true"),
    ("NOT (ok AND false)", "is always true"),
    ("coalesce(NULL, 1) = 1", "is always true"),
    ("k = NULL", "k = NULL compares with NULL, which is never true; write x IS NULL"),
    ("NULL < k", "compares with NULL"),
    ("k BETWEEN NULL AND 3", "compares with NULL"),
    ("k IN (1, NULL)", "compares with NULL"),
    ("k NOT IN (1, NULL)", "compares with NULL"),
    ("ok AND NOT (k != NULL)", "compares with NULL"),
    # Thresholds
    ("top_fraction(clip_score, 0)", FRACTION),
    ("top_fraction(clip_score, 1.01)", f"{FRACTION}, got 1.01; 0.3 is 30 %"),
    ("top_fraction(clip_score, 30)", FRACTION),
    ("top_fraction(clip_score, -0.3)", FRACTION),
    ("top_fraction(clip_score, '0.3')", "must be a number, got '0.3'"),
    ("top_fraction(clip_score, NULL)", "must be a number, got NULL"),
    ("top_fraction(clip_score, k)", "must be a number, got k"),
    ("top_fraction(clip_score, 0.1 + 0.2)", "must be a number, got 0.1 + 0.2"),
    ("top_fraction(0.3, clip_score)", "must be a number, got clip_score"),
    ("top_fraction(clip_score)", "the form is top_fraction(column, fraction [, group])"),
    ("top_fraction()", "has 0 arguments"),
    ("top_fraction(clip_score, 0.3, language, ok)", "has 4 arguments"),
    ("top_fraction(caption, 0.3)", "caption is VARCHAR; only numbers can be ranked"),
    ("top_fraction(ok, 0.3)", "ok is BOOLEAN; only numbers can be ranked"),
    ("top_fraction(taken, 0.3)", "taken is DATE; only numbers can be ranked"),
    ("top_fraction(0.5, 0.3)", "ranks the constant 0.5"),
    ("top_fraction(clip_score, 0.3, 'en')", "ranks the constant 'en'"),
    ("top_fraction(quantile_of(k, 0.3), 0.3)", "has a function of the whole dataset in it"),
    ("top_fraction(k, 0.3, keep_first_of(duplicate_group))", "filter twice"),
    ("k < quantile_of(k, 1.5)", SHARE),
    ("k < quantile_of(k, -0.1)", SHARE),
    ("k < quantile_of(k, 99)", SHARE),
    ("k < quantile_of(caption, 0.5)", "only numbers can be ranked"),
    ("k < quantile_of(k)", "the form is quantile_of(column, share [, group])"),
    ("rank_in(k)", f"rank_in(k) {WHOLE}"),
    ("rank_in(k) = 3", WHOLE),
    ("rank_in(k) BETWEEN 1 AND 3", WHOLE),
    ("rank_in(k) IN (1, 2)", WHOLE),
    ("rank_in(k) + 1 <= 3", WHOLE),
    ("rank_in(k) <= rank_in(clip_score)", WHOLE),
    ("rank_in(k) <= k", "must be a number, got k"),
    ("rank_in(k) <= 3.5", "a rank is a whole number"),
    ("rank_in(k) <= 0", "ranks begin with 1"),
    ("rank_in(k) < 1", "ranks begin with 1"),
    ("rank_in(k) > 0", "ranks begin with 1"),
    ("-5 >= rank_in(k)", "ranks begin with 1"),
    ("rank_in() <= 3", "the form is rank_in(column [, group])"),
    ("rank_in(k, language, ok) <= 3", "has 3 arguments"),
    ("keep_first_of(caption)", "must name one group column of duplicate_group"),
    ("keep_first_of(duplicate_first)", "must name one group column of duplicate_group"),
    ("keep_first_of(lonely_group)", "must name one group column of duplicate_group"),
    ("keep_first_of('duplicate_group')", "must name one group column"),
    ("keep_first_of(lower(duplicate_group))", "must name one group column"),
    ("keep_first_of(duplicate_group, k)", "must name one group column"),
    ("keep_first_of()", "must name one group column"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[text for text, _ in REFUSED])
def test_a_mistake_is_refused_with_its_cure(text, reason):
    with pytest.raises(UsageError) as error:
        read_predicate(text, SCHEMA, MAKERS)
    assert reason in str(error.value)


def test_without_groups_the_scorer_that_makes_them_is_named():
    with pytest.raises(UsageError, match="that the scorer duplicates makes"):
        read_predicate("keep_first_of(k)", pa.schema([("k", pa.int64())]))


def test_as_many_columns_as_can_be_joined():
    text = f"concat({', '.join(['caption'] * MAX_JOINED)}) = 'a'"
    assert read_predicate(text, SCHEMA).text == text


def test_as_many_clauses_as_are_allowed():
    assert len(read_predicate(" AND ".join(["ok"] * MAX_CLAUSES), SCHEMA).clauses) == MAX_CLAUSES


@pytest.mark.parametrize(
    "text",
    [
        "nullif(1, k) = 1",
        "concat(caption, 'a') = 'a'",
        "greatest(k, 1) > 0",
        "coalesce(ok, true)",
        "k IS NOT DISTINCT FROM NULL",
        "CASE WHEN ok THEN true ELSE false END",
    ],
)
def test_what_is_true_of_null_but_not_of_everything_is_accepted(text):
    assert len(read_predicate(text, SCHEMA).clauses) == 1
