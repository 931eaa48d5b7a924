"""Beam pipelines: they build and run graphs, and nothing else."""
