"""Measures of a whole dataset, and of scores that tell two datasets apart; pure functions."""
