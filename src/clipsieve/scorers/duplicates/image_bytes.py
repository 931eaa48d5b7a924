"""Rows whose pictures are the same file, byte for byte."""

from clipsieve.scorers.duplicates.exact import ExactDuplicates
from clipsieve.scorers.duplicates.groups import group_columns
from clipsieve.scorers.duplicates.keys import BYTES


class BytesDuplicates(ExactDuplicates):
    """Groups of rows with equal image bytes: 128 bits of their sha256.

    A row without bytes has no value.  Rows of every state count, also those whose picture cannot
    be decoded.
    """

    name, family, prefix = "duplicates.bytes", "duplicates", "duplicate_bytes"
    source, needs = BYTES, BYTES.needs
    columns = group_columns(prefix, "with equal image bytes", "sha256 of the bytes, FIPS 180-4")
