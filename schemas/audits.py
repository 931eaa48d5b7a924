"""Arrow schemas of audit tables: groups, their rows, and copies.  Imports nothing of ours."""

from collections.abc import Sequence

import pyarrow as pa

#: Tables of an audit, and views of the same files: name of the table -> name of the view.
AUDIT_VIEWS = {"groups": "audit_groups", "members": "audit_members", "copies": "copies"}


def _field(name: str, type: pa.DataType, doc: str) -> pa.Field:
    return pa.field(name, type, metadata={"doc": doc})


def groups_schema(uid_type: pa.DataType) -> pa.Schema:
    """Schema of `audits/groups.parquet`: groups of suspicious rows, most evidence first.

    Args:
      uid_type: type of the source's uid column, or string.
    """
    return pa.schema(
        [
            _field("rank", pa.int32(), "from 1"),
            _field("finding", pa.string(), "what it is: see docs/backdoor.md"),
            _field("why", pa.string(), "a sentence: what is out of the ordinary"),
            _field("kind", pa.string(), "what its rows share"),
            _field("evidence", pa.float64(), "nats against the group in all"),
            _field("evidence_per_row", pa.float64(), "nats a row"),
            _field("p", pa.float64(), "tail among ordinary groups, corrected for all tests"),
            _field("rows", pa.int64(), "of the group"),
            _field("share", pa.float64(), "rows as a share of the dataset"),
            _field("witness", pa.string(), "column that speaks against it the most"),
            _field("witness_mean", pa.float64(), "mean of that column over its rows"),
            _field("ordinary_low", pa.float64(), "lowest of 95 % of ordinary groups of its size"),
            _field("ordinary_high", pa.float64(), "highest of these"),
            _field("captions", pa.list_(pa.string()), "the three most frequent"),
            _field("caption_rows", pa.list_(pa.int64()), "rows of each of these"),
            _field("n_captions", pa.int64(), "different captions, normalised"),
            _field("n_images", pa.int64(), "different pictures, by perceptual hash"),
            _field("copies", pa.int64(), "rows of the most frequent picture"),
            _field("similarity", pa.float32(), "mean cosine between pictures of two rows"),
            _field("hosts", pa.list_(pa.string()), "the three most frequent"),
            _field("n_hosts", pa.int64(), "different hosts"),
            _field("uids", pa.list_(uid_type), "of up to five rows, the most suspicious first"),
            _field("urls", pa.list_(pa.string()), "of the same rows; NULL without a url column"),
            _field("keep", pa.string(), "for `clipsieve filter --where`: all rows but these"),
        ]
    )


def members_schema(uid_type: pa.DataType, witnesses: Sequence[str]) -> pa.Schema:
    """Schema of `audits/members.parquet`: every row of every group.

    Args:
      uid_type: type of the source's uid column, or string.
      witnesses: columns of the witnesses.
    """
    return pa.schema(
        [
            _field("rank", pa.int32(), "of the group"),
            _field("uid", uid_type, "of the row"),
            _field("shard", pa.string(), "of the row"),
            _field("row", pa.int64(), "number in its shard"),
            *(_field(name, pa.float32(), "witness") for name in witnesses),
            *(
                _field(f"{name}_p", pa.float32(), "tail of the row among ordinary rows")
                for name in witnesses
            ),
        ]
    )


def copies_schema() -> pa.Schema:
    """Schema of `audits/copies.parquet`: captions and pictures that occur more than once."""
    return pa.schema(
        [
            _field("kind", pa.string(), "what is the same: caption, image_bytes or image_hash"),
            _field("rows", pa.int64(), "with it"),
            _field("caption", pa.string(), "of the first row with it"),
            _field("n_captions", pa.int64(), "different captions, normalised"),
            _field("n_images", pa.int64(), "different pictures, by perceptual hash if recorded"),
            _field("n_hosts", pa.int64(), "different hosts"),
            _field("similarity", pa.float32(), "mean cosine between pictures of two rows"),
            _field("clip_score_mean", pa.float32(), "over the rows with a score"),
            _field("density_mean", pa.float32(), "k-distance, over the rows with one"),
            _field("image_sha256", pa.string(), "of the first row with it"),
            _field("url", pa.string(), "of the first row with it"),
        ]
    )
