"""Mergeable states: zero, add a batch, merge, value; associative and commutative."""
