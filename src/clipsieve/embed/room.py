"""How many bytes the files of shards take: at least, and usually."""

#: Footers of the three files of a shard.
_SHARD_BYTES = 4096
#: Share of the vectors that is written at least: rows without a picture have none, and equal rows
#: are compressed.
_LEAST_SHARE = 0.05
#: Bytes of a row in all tables besides its vectors: ledger, scores, the wide table.
_ROW_BYTES = 400


def least_bytes(rows: int, dim: int, shards: int = 1) -> int:
    """Return what `shards` shards of `rows` rows in all take whatever is in them.

    >>> least_bytes(10_000, 512)
    1028096
    """
    return shards * _SHARD_BYTES + int(rows * _vector_bytes(dim) * _LEAST_SHARE)


def usual_bytes(rows: int, dim: int, shards: int = 1) -> int:
    """Return what they take with a vector for every picture and caption.

    >>> usual_bytes(10_000, 512)
    24484096
    """
    return shards * _SHARD_BYTES + rows * (_vector_bytes(dim) + _ROW_BYTES)


def _vector_bytes(dim: int) -> int:
    """Bytes of a row's two vectors in float16."""
    return 2 * dim * 2
