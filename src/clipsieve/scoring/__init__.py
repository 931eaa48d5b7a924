"""Scores from what is stored: what scorers learn of a dataset, and the files of score families."""
