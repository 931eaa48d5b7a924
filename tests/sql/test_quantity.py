"""Ranks of thresholds against sorting, numpy's quantiles, and DataComp's own numbers."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from clipsieve.errors import UsageError
from clipsieve.sql.quantity import Quantity, Rule, exact_number

DATA = Path(__file__).resolve().parents[1] / "data" / "datacomp_thresholds.npz"


def rank(rule: Rule, argument: str, rows: int) -> int:
    return Quantity("text", rule, "x", argument, None, "FLOAT").rank(rows)


def threshold(rule: Rule, argument: str, values: np.ndarray) -> float:
    """The value at the rank, by a sort."""
    return float(np.sort(values)[::-1][rank(rule, argument, len(values)) - 1])


@pytest.mark.parametrize("fraction", ["0.3", "0.29", "0.15", "0.999", "0.0001"])
def test_top_fraction_is_the_threshold_of_datacomps_own_code(fraction):
    # Scores of DataComp's get_threshold at commit 4a8df19, and what it gave.
    with np.load(DATA) as data:
        scores = data["scores"]
        expected, kept = data[f"threshold_{fraction}"], data[f"kept_{fraction}"]
    cut = threshold(Rule.TOP_FRACTION, fraction, scores)
    assert cut == float(expected)
    assert int((scores >= np.float32(cut)).sum()) == int(kept)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 10, 100, 101, 1000, 12345])
@pytest.mark.parametrize(
    "fraction", ["0.001", "0.07", "0.1", "0.29", "0.3", "0.5", "0.57", "0.999"]
)
def test_top_fraction_is_place_n_of_a_descending_sort(rows, fraction):
    values = np.random.default_rng(rows).integers(0, 50, rows).astype(np.float32)
    expected = -np.sort(-values)[int(rows * float(fraction))]
    assert threshold(Rule.TOP_FRACTION, fraction, values) == expected


def test_all_rows_are_the_top_fraction_1():
    assert rank(Rule.TOP_FRACTION, "1", 10) == 10


def test_top_fraction_counts_in_float64_and_quantile_of_in_decimal():
    # 100 * 0.29 is 28.999999999999996 in float64, and 0.07 * 100 is 7.000000000000001.
    assert rank(Rule.TOP_FRACTION, "0.29", 100) == 29
    assert rank(Rule.QUANTILE, "0.07", 100) == 100 - 7 + 1


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 64, 100, 999, 1000])
@pytest.mark.parametrize("thousandths", [0, 1, 70, 125, 250, 290, 500, 700, 999, 1000])
def test_quantile_of_is_the_inverted_cdf_with_an_exact_share(rows, thousandths):
    values = np.random.default_rng(rows).integers(0, 40, rows).astype(np.float64)
    # The smallest value that at least this share of rows does not exceed, by counting.
    share = Fraction(thousandths, 1000)
    expected = min(
        value for value in values if Fraction(int((values <= value).sum()), rows) >= share
    )
    argument = str(thousandths / 1000)
    assert threshold(Rule.QUANTILE, argument, values) == expected
    if (rows * thousandths) % 1000:  # else float64 decides in numpy, and sometimes wrongly
        other = np.quantile(values, thousandths / 1000, method="inverted_cdf")
        assert threshold(Rule.QUANTILE, argument, values) == other


@pytest.mark.parametrize(
    ("last", "place"), [("1", 1), ("5", 5), ("10", 10), ("11", 10), ("1e6", 10)]
)
def test_a_rank_is_its_place_and_behind_the_last_the_last(last, place):
    assert rank(Rule.RANK, last, 10) == place


@pytest.mark.parametrize(
    ("rule", "argument"), [(Rule.TOP_FRACTION, "0.3"), (Rule.QUANTILE, "0.5"), (Rule.RANK, "3")]
)
def test_of_no_values_there_is_no_rank(rule, argument):
    assert rank(rule, argument, 0) == 0


def test_numbers_are_read_as_written():
    assert exact_number("0.1") * 10 == 1
    assert exact_number("3e-1") == Fraction(3, 10)
    assert exact_number(".5") == Fraction(1, 2)
    assert exact_number("-0") == 0


@pytest.mark.parametrize(
    "text", ["1e-999999999", "1e999999999", "nan", "inf", "-inf", "", "x", "0." + "3" * 80, "1e31"]
)
def test_what_is_no_number_or_has_too_many_digits_is_refused(text):
    with pytest.raises(UsageError, match="is no fraction or rank; write it with at most 30 digits"):
        exact_number(text)
