"""Exact sums: the same bits in every order, the value of a rational sum, and refusals."""

import pickle
import random
from fractions import Fraction

import numpy as np
import pytest

from clipsieve.errors import ClipsieveError
from clipsieve.statistics.exact_sum import LARGEST, ExactSum
from clipsieve.transforms.merge import Merge
from tests.transforms.combining import combined_every_way


def arrays(count, shape=(3, 2), seed=0):
    """Values of very different sizes, so that float sums depend on their order."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) * 10.0 ** rng.uniform(-12, 4, size=shape) for _ in range(count)]


def summed(parts):
    first, *others = map(ExactSum.from_values, parts)
    return sum(others, first)


def rational(parts, limbs=2):
    """The sum of the nearest multiples of the last limb's unit, in fractions."""
    unit = Fraction(2) ** (32 - 52 * limbs)
    stack = np.stack(parts).reshape(len(parts), -1)
    return [sum(round(Fraction(v) / unit) for v in column) * unit for column in stack.T.tolist()]


def test_the_sum_is_that_of_fractions():
    parts = arrays(200)
    assert float(max(map(np.abs, map(np.max, parts)))) < LARGEST
    expected = np.array([float(total) for total in rational(parts)]).reshape(3, 2)
    np.testing.assert_allclose(summed(parts).value(), expected, rtol=2.3e-16)


def test_float_sums_of_these_parts_do_depend_on_the_order():
    parts = arrays(200)
    assert not np.array_equal(sum(parts), sum(reversed(parts)))


def test_every_order_and_grouping_has_the_same_bits():
    parts = [ExactSum.from_values(part) for part in arrays(23)]
    expected = summed(arrays(23))
    results = list(combined_every_way(Merge(ExactSum.zeros((3, 2))), parts))
    assert len(results) > 5
    assert all(np.array_equal(result.limbs, expected.limbs) for result in results)


def test_limbs_are_unique_and_in_range():
    parts = arrays(500, shape=(4,))
    shuffled = random.Random(1).sample(parts, len(parts))
    one, other = summed(parts), summed(shuffled)
    assert one == other
    assert one != summed(parts[1:])
    assert (np.abs(one.limbs[1]) <= 2**51).all()


def test_parts_that_cancel_leave_exactly_zero():
    total = summed([*arrays(50), *[-part for part in reversed(arrays(50))]])
    assert total == ExactSum.zeros((3, 2))
    assert total.value().tolist() == np.zeros((3, 2)).tolist()


def test_many_large_values_do_not_overflow():
    state = ExactSum.from_values(np.array([LARGEST, -LARGEST]))
    for _ in range(26):
        state = state + state
    assert state.value().tolist() == [LARGEST * 2.0**26, -LARGEST * 2.0**26]


@pytest.mark.parametrize(("limbs", "small"), [(2, 2.0**-72), (3, 2.0**-124), (4, 2.0**-176)])
def test_more_limbs_keep_smaller_values(limbs, small):
    kept = ExactSum.from_values(np.array([small, small / 4, 1.0]), limbs)
    assert kept.value().tolist() == [small, 0.0, 1.0]
    parts = [np.array([1.0, small]), np.array([-1.0, small])]
    total = ExactSum.from_values(parts[0], limbs) + ExactSum.from_values(parts[1], limbs)
    assert total.value().tolist() == [0.0, 2 * small]


def test_large_arrays_are_summed_like_small_ones():
    values = arrays(1, shape=(50_000,))[0]
    whole = ExactSum.from_values(values) + ExactSum.from_values(values[::-1])
    part = ExactSum.from_values(values[40_000:]) + ExactSum.from_values(values[9_999::-1])
    assert np.array_equal(whole.limbs[:, 40_000:], part.limbs)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (5,)])
def test_shapes_are_kept(shape):
    state = ExactSum.from_values(np.ones(shape))
    assert state.shape == (state + state).value().shape == shape
    assert pickle.loads(pickle.dumps(state)) == state


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2 * LARGEST, -40_000.0])
def test_values_that_cannot_be_summed_are_refused(bad):
    with pytest.raises(ClipsieveError, match="must be finite and at most 32768"):
        ExactSum.from_values(np.array([0.0, bad]))


def test_sums_of_different_shapes_are_refused():
    with pytest.raises(ClipsieveError, match=r"\(2, 1\) and \(2, 3\) cannot be added"):
        ExactSum.zeros((1,)) + ExactSum.zeros((3,))


def test_the_sums_given_are_left_as_they_are():
    state = ExactSum.from_values(np.array([0.25]))
    before = state.limbs.copy()
    state + state
    assert np.array_equal(state.limbs, before)
