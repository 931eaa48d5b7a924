"""What a search must find, computed the slow and obvious way."""

import numpy as np


def naive_distances(queries, rows, metric="euclidean"):
    """(N, R) float32: all pairs in float64."""
    queries, rows = (np.asarray(each, np.float32) for each in (queries, rows))
    if metric == "cosine":
        queries, rows = (unit(each) for each in (queries, rows))
    squares = np.empty((len(queries), len(rows)))
    for row, query in enumerate(queries.astype(np.float64)):
        squares[row] = ((query - rows.astype(np.float64)) ** 2).sum(axis=1)
    return (np.sqrt(squares) if metric == "euclidean" else squares / 2).astype(np.float32)


def unit(vectors):
    wide = vectors.astype(np.float64)
    return (wide / np.sqrt((wide**2).sum(axis=1, keepdims=True))).astype(np.float32)


def naive_neighbours(queries, rows, k, own=None, metric="euclidean", first=0):
    """(N, k) distances and numbers, from a full sort of each row."""
    distances = naive_distances(queries, rows, metric)
    nearest = np.full((len(queries), k), np.inf, np.float32)
    indices = np.full((len(queries), k), -1, np.int64)
    for query in range(len(queries)):
        left = np.arange(len(rows))
        if own is not None:
            left = left[~np.isin(left + first, np.atleast_1d(own[query]))]
        order = np.lexsort((left, distances[query, left]))[:k]
        nearest[query, : len(order)] = distances[query, left[order]]
        indices[query, : len(order)] = left[order] + first
    return nearest, indices
