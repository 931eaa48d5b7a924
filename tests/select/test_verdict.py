"""Verdicts and the funnel, against a loop over rows."""

import numpy as np
import pytest

from clipsieve.select.verdict import (
    FAIL,
    MAX_STEPS,
    NULL,
    PASS,
    Funnel,
    Step,
    StepKind,
    judge,
)

KINDS = [StepKind.REMOVED, StepKind.FROM, StepKind.CLAUSE, StepKind.CLAUSE, StepKind.MINUS]


def naive(steps, states, rescued):
    """Number of the step that drops a row, or 0; whether it is NULL there."""
    for number, (step, state) in enumerate(zip(steps, states, strict=True), 1):
        is_absolute = step.kind in (StepKind.REMOVED, StepKind.MINUS)
        if state != PASS and (is_absolute or not rescued):
            return number, state == NULL
    return 0, False


@pytest.mark.parametrize("seed", range(8))
def test_verdicts_and_funnel_equal_a_loop_over_rows(seed):
    rng = np.random.default_rng(seed)
    steps = [Step(kind, f"s{at}") for at, kind in enumerate(KINDS)]
    states = rng.choice([PASS, FAIL, NULL], p=[0.6, 0.3, 0.1], size=(len(steps), 500))
    rescued = rng.random(500) < 0.2 if seed % 2 else None
    rescues = np.zeros(500, bool) if rescued is None else rescued
    parts = np.array_split(np.arange(500), 7)
    verdicts = judge(steps, states.astype(np.int8), rescued)
    expected = [naive(steps, states[:, row], rescues[row]) for row in range(500)]
    assert verdicts.step.tolist() == [step for step, _ in expected]
    assert verdicts.is_null.tolist() == [null for _, null in expected]
    funnel = Funnel()
    for rows in rng.permutation(len(parts)):
        part = parts[rows]
        of_part = None if rescued is None else rescued[part]
        funnel = funnel + Funnel(judge(steps, states[:, part].astype(np.int8), of_part).patterns)
    assert funnel.patterns == verdicts.patterns
    assert funnel.rows == 500 and funnel.kept(steps) == int(verdicts.kept.sum())
    left = 500
    for number, line in enumerate(funnel.table(steps), 1):
        lost = [at for at, (step, _) in enumerate(expected) if step == number]
        fails = states[number - 1] != PASS
        assert line["rows_in"] == left and line["lost"] == len(lost)
        assert line["lost_null"] == sum(expected[at][1] for at in lost)
        assert line["lost_alone"] == fails.sum()
        assert line["lost_only"] == (fails & ((states != PASS).sum(axis=0) == 1)).sum()
        left -= len(lost)
        assert line["rows_out"] == left
    assert left == funnel.kept(steps)


def test_overlaps_count_rows_by_the_set_of_steps_they_fail():
    steps = [Step(StepKind.CLAUSE, name) for name in "abc"]
    states = np.array([[0, 1, 2, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]], np.int8)
    funnel = Funnel(judge(steps, states).patterns)
    assert [(row["failed"], row["labels"], row["rows"]) for row in funnel.overlaps(steps)] == [
        ([1, 2], ["a", "b"], 2),
        ([], [], 1),
        ([1], ["a"], 1),
        ([3], ["c"], 1),
    ]
    assert funnel.pairs(steps) == {(1, 2): 2}


def test_as_many_steps_as_are_allowed_are_told_apart():
    steps = [Step(StepKind.CLAUSE, str(at)) for at in range(MAX_STEPS)]
    states = np.full((MAX_STEPS, 2), NULL, np.int8)
    states[:-1, 1] = PASS
    funnel = Funnel(judge(steps, states, np.array([False, False])).patterns)
    lines = funnel.table(steps)
    assert [line["lost"] for line in lines] == [1] + [0] * (MAX_STEPS - 2) + [1]
    assert lines[-1]["lost_alone"] == 2


def test_no_rows_have_no_verdict():
    verdicts = judge([Step(StepKind.CLAUSE, "a")], [np.empty(0, np.int8)])
    assert len(verdicts.step) == 0 and Funnel(verdicts.patterns).rows == 0
