"""Exact nearest neighbours of a stream of queries in a reference block."""

from clipsieve.neighbours.index import ExactIndex
from clipsieve.neighbours.lists import Neighbours, merge_neighbours
from clipsieve.neighbours.options import SearchOptions

__all__ = ["ExactIndex", "Neighbours", "SearchOptions", "merge_neighbours"]
