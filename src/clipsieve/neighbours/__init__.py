"""Exact nearest neighbours of a stream of queries in a reference block: see `index.ExactIndex`."""
