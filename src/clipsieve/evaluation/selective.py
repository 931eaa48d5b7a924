"""Selective classification: the risk of the most confident rows, by their share."""

import numpy as np


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and risk: the share of errors among the i most confident rows of N.

    Rows of equal confidence share their errors evenly, which is the mean over their orders: the
    curve does not depend on the order of rows.

    Args:
      confidence: (N,) finite, higher is more confident.
      correct: (N,) bool.

    Returns:
      (N + 1,) float64 coverage i / N, and (N + 1,) float64 risk, both beginning with 0.

    >>> risk_coverage(np.array([0.9, 0.5, 0.7]), np.array([True, False, False]))[1]
    array([0.        , 0.        , 0.5       , 0.66666667])
    """
    count = len(confidence)
    if not count:
        return np.zeros(1), np.zeros(1)
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(group, ~np.asarray(correct, bool), len(sizes)).cumsum()
    ends = sizes.cumsum()
    numbers = np.arange(count + 1)
    errors = np.interp(numbers, np.append(0, ends), np.append(0, wrong))
    risk = errors / np.maximum(numbers, 1)
    return numbers / count, risk


def aurc(confidence: np.ndarray, correct: np.ndarray) -> float | None:
    """Return the area under the risk-coverage curve, by trapezoids; lower is better, in [0, 1].

    The curve begins at (0, 0), as in FixSC (arXiv:2305.15508); None without a row.
    See `risk_coverage`.
    """
    if not len(confidence):
        return None
    coverage, risk = risk_coverage(confidence, correct)
    return float(((risk[1:] + risk[:-1]) / 2 * np.diff(coverage)).sum())
