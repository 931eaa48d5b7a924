"""Columns keep their types, name their scorer and revision, and are refused if they do not fit."""

import numpy as np
import pyarrow as pa
import pytest

from clipsieve.scorers.base import NeighbourSpec, PromptSet, Scorer, score_column
from clipsieve.scorers.columns import (
    family_revision,
    made_by,
    score_columns,
    scorer_basis,
    scorer_revision,
    scores_table,
)

TYPES = {
    "similarity": pa.float32(),
    "count": pa.int32(),
    "big": pa.int64(),
    "flag": pa.bool_(),
    "label": pa.string(),
}


class Mixed(Scorer):
    """A scorer with a column of every type."""

    name, family = "toy.mixed", "toy"
    columns = pa.schema(
        [score_column(name, f"a {name}", "none", "any", "nowhere", t) for name, t in TYPES.items()]
    )

    def score(self, batch, loaded):
        """Not called here."""
        raise NotImplementedError


VALUES = {
    "similarity": np.array([0.25, np.nan, 1.0]),
    "count": np.array([3, None, -1], object),
    "big": np.array([2**40, None, 0], object),
    "flag": np.array([True, None, False], object),
    "label": np.array(["cat", None, ""], object),
}
EXPECTED = {
    "similarity": [0.25, None, 1.0],
    "count": [3, None, -1],
    "big": [2**40, None, 0],
    "flag": [True, None, False],
    "label": ["cat", None, ""],
}


def stored(values, rows=3):
    columns = score_columns(Mixed(), "abc", {**VALUES, **values}, rows)
    return scores_table(pa.array(["u"] * rows), columns)


def test_values_are_stored_in_the_types_of_their_columns():
    table = stored({})
    assert table.column_names == ["uid", *TYPES]
    for name, kind in TYPES.items():
        assert table.schema.field(name).type == kind
        assert table[name].to_pylist() == EXPECTED[name]


def test_whole_numbers_given_as_floats_are_stored_with_nan_as_null():
    table = stored({"count": np.array([3.0, np.nan, -1.0]), "big": np.array([1.0, np.nan, 0.0])})
    assert table["count"].to_pylist() == [3, None, -1]
    assert table["big"].to_pylist() == [1, None, 0]


def test_arrays_without_gaps_may_have_numpys_own_types():
    table = stored(
        {
            "count": np.array([1, 2, 3], np.int64),
            "flag": np.array([True, False, True]),
            "label": np.array(["a", "b", "c"]),
            "similarity": np.array([0.1, 0.2, 0.3], np.float16),
        }
    )
    assert table["count"].to_pylist() == [1, 2, 3]
    assert table["flag"].to_pylist() == [True, False, True]
    assert table["label"].to_pylist() == ["a", "b", "c"]
    assert table["similarity"].null_count == 0


def test_metadata_names_scorer_and_revision_beside_the_meaning():
    for field in stored({}).schema:
        if field.name == "uid":
            assert made_by(field) is None
            continue
        assert made_by(field) == ("toy.mixed", "abc")
        assert field.metadata[b"doc"] == f"a {field.name}".encode()
        assert {b"direction", b"range", b"source"} <= set(field.metadata)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": np.zeros(2)}, "scorer toy.mixed gave 2 values of column 'count' for 3 rows"),
        ({"count": np.zeros(4)}, "scorer toy.mixed gave 4 values of column 'count' for 3 rows"),
        ({"label": None}, "scorer toy.mixed gave no values of column 'label' for 3 rows"),
        (
            {"similarity": np.zeros((3, 1))},
            r"scorer toy.mixed gave values of shape \(3, 1\) of column 'similarity' for 3 rows",
        ),
        (
            {"similarity": np.array(0.5)},
            r"toy.mixed gave values of shape \(\) of column 'similarity'",
        ),
        ({"count": np.array([1.5, 2, 3])}, "toy.mixed gave values of column 'count' that are no i"),
        ({"flag": np.array(["x"] * 3)}, "toy.mixed gave values of column 'flag' that are no bool"),
    ],
)
def test_columns_that_do_not_fit_are_refused_with_scorer_and_column(values, message):
    with pytest.raises(ValueError, match=message):
        stored(values)


def test_a_missing_column_is_refused():
    scores = {name: values for name, values in VALUES.items() if name != "flag"}
    with pytest.raises(ValueError, match=r"toy\.mixed gave no values of column 'flag'"):
        score_columns(Mixed(), "abc", scores, 3)


class Changed(Mixed):
    """The same, with everything else that decides values."""

    def __init__(self, parameters=None, prompts=(), lists=()):
        """Take what the methods return."""
        self._parameters, self._prompts, self._lists = parameters or {}, prompts, lists

    def parameters(self):
        """As given."""
        return self._parameters

    def prompts(self):
        """As given."""
        return self._prompts

    def neighbour_lists(self):
        """As given."""
        return self._lists


def test_all_that_decides_values_changes_the_basis():
    renamed, raised = Changed(), Changed()
    renamed.name, raised.version = "toy.other", 2
    prompts = PromptSet(("a",), (("a",),))
    scorers = [
        *(Changed(), renamed, raised, Changed({"k": 1}), Changed({"k": 2})),
        *(Changed(prompts=(prompts,)), Changed(lists=(NeighbourSpec(k=1),))),
        Changed(lists=(NeighbourSpec(k=2),)),
    ]
    bases = [scorer_basis(scorer, "rev") for scorer in scorers]
    assert len(set(bases)) == len(scorers)
    assert scorer_basis(Changed(), "other") not in bases
    assert scorer_basis(Changed(), "rev") == bases[0]


def test_what_was_learnt_changes_the_revision():
    revisions = {
        scorer_revision("basis", None, {}),
        scorer_revision("other", None, {}),
        scorer_revision("basis", "one", {}),
        scorer_revision("basis", "two", {}),
        scorer_revision("basis", "one", {"key": "lists"}),
        scorer_revision("basis", "one", {"key": "others"}),
    }
    assert len(revisions) == 6


def test_a_family_changes_with_any_of_its_scorers():
    assert family_revision({"a": "1", "b": "2"}) == family_revision({"b": "2", "a": "1"})
    families = [{"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": "2"}, {"a": "2", "b": "1"}]
    assert len({family_revision(family) for family in families}) == 5
