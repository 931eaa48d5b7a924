"""What to keep of a dataset: lists of ids."""
