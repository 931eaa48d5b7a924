"""Beam pipelines, one module a stage: build(root, config) and main(argv)."""
