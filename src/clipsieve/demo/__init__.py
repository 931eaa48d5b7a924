"""Sample data with known flaws, and the tiny CLIP model that was trained on its like.

Import from the modules: `shards` and `layouts` write datasets, `records` makes single records,
`scenes` and `noise` say what is in them, `evaluate` measures the model in `TINY_MODEL`.
"""

from pathlib import Path

#: The bundled model in open_clip's `local-dir` form.  Its tokenizer needs the merges given by
#: hand: `open_clip.get_tokenizer(f"local-dir:{TINY_MODEL}", bpe_path=str(TINY_MERGES))`.
TINY_MODEL = Path(__file__).parent / "tiny"
TINY_MERGES = TINY_MODEL / "bpe_merges.txt.gz"
