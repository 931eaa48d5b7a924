"""Which rows to keep: thresholds, verdicts with reasons, subsets."""
