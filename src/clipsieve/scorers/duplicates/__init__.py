"""Duplicates: equal bytes, equal captions, near-equal pictures, near-equal embeddings."""
