"""Arrow schemas of audit tables: one row a group of suspicious rows.  Imports nothing of ours."""

import pyarrow as pa


def _field(name: str, type: pa.DataType, doc: str) -> pa.Field:
    return pa.field(name, type, metadata={"doc": doc})


def groups_schema(uid_type: pa.DataType) -> pa.Schema:
    """Schema of `audits/<family>/`: groups of suspicious rows, most evidence first.

    Args:
      uid_type: type of the source's uid column, or string.
    """
    return pa.schema(
        [
            _field("rank", pa.int32(), "from 1, by evidence"),
            _field("evidence", pa.float64(), "nats of surprise beyond that of ordinary rows"),
            _field("size", pa.int64(), "suspicious rows of the group"),
            _field("rows", pa.int64(), "those and the other rows with a caption that binds it"),
            _field("share", pa.float64(), "rows as a share of all scored rows"),
            _field("score_mean", pa.float32(), "of the suspicious rows"),
            _field("score_max", pa.float32(), "of the suspicious rows"),
            _field("caption", pa.string(), "the most frequent; NULL if no row has one"),
            _field("n_captions", pa.int64(), "different captions, normalised"),
            _field("n_images", pa.int64(), "different pictures; near-duplicates count as one"),
            _field("similarity", pa.float32(), "mean cosine between pictures of two rows"),
            _field("why", pa.string(), "what joins the rows: caption, image or both"),
            _field("uids", pa.list_(uid_type), "of up to five rows, the most suspicious first"),
            _field("urls", pa.list_(pa.string()), "of the same rows; NULL without a url column"),
        ]
    )
