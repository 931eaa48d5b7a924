"""Sample data with known flaws, and the tiny CLIP model that was trained on its like.

Import from the modules: `shards` writes datasets, `records` makes single records, `scenes` and
`noise` say what is in them, `evaluate` measures the model in `tiny/`.
"""
