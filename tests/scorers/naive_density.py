"""Density scores one number at a time, from the formulas of the papers: slow and plain."""

import math

import numpy as np

FLOAT32_MAX = (2 - 2**-23) * 2**127


def lists(queries, reference, own, k):
    """Distances and indices of the k nearest reference rows; `own[i]` are not neighbours of i."""
    distances = np.full((len(queries), k), np.inf)
    indices = np.full((len(queries), k), -1)
    for i, query in enumerate(queries):
        found = [
            (math.dist(query, row), o) for o, row in enumerate(reference) if o not in set(own[i])
        ]
        for at, (distance, o) in enumerate(sorted(found)[:k]):
            distances[i, at], indices[i, at] = distance, o
    return distances, indices


def within(rows, k):
    """Lists of rows among themselves."""
    return lists(rows, rows, [[i] for i in range(len(rows))], k)


def ratio(far, near):
    if far == near == 0:
        return 1.0
    return 1000.0 if near == 0 else far / near


def neighbours(distances, indices, i, k):
    return [(d, o) for d, o in zip(distances[i, :k], indices[i, :k], strict=True) if o >= 0]


def k_distance(distances, i, k):
    return [d for d in distances[i, :k] if d != np.inf][-1]


def lid(distances, i, k):
    found = [d for d in distances[i, :k] if d != np.inf]
    if min(found) == 0:
        return 0.0
    total = sum(math.log(d / found[-1]) for d in found)
    return 10000.0 if total == 0 else min(-len(found) / total, 10000.0)


def lid_moments(distances, i, k):
    found = [d for d in distances[i, :k] if d != np.inf]
    mean = sum(found) / len(found)
    if found[-1] == 0:
        return 0.0
    return 10000.0 if found[0] == found[-1] else min(mean / (found[-1] - mean), 10000.0)


def slof(distances, indices, i, reference, k):
    far = k_distance(distances, i, k)
    found = neighbours(distances, indices, i, k)
    return sum(ratio(far, k_distance(reference[0], o, k)) for _, o in found) / len(found)


def dao(distances, indices, i, reference, k, lid_k):
    far = k_distance(distances, i, k)
    terms = []
    for _, o in neighbours(distances, indices, i, k):
        near = k_distance(reference[0], o, k)
        power = lid(reference[0], o, lid_k) if near > 0 else 1
        try:
            terms.append(min(ratio(far, near) ** power, FLOAT32_MAX))
        except OverflowError:
            terms.append(FLOAT32_MAX)
    return sum(terms) / len(terms)


def reachability(distances, indices, i, reference, k):
    found = neighbours(distances, indices, i, k)
    return sum(max(k_distance(reference[0], o, k), d) for d, o in found) / len(found)


def lof(distances, indices, i, reference, k):
    own = reachability(distances, indices, i, reference, k)
    found = neighbours(distances, indices, i, k)
    inner, numbers = reference
    terms = [ratio(own, reachability(inner, numbers, o, reference, k)) for _, o in found]
    return sum(terms) / len(terms)
