"""Rows with the same caption, character for character."""

from clipsieve.scorers.duplicates.exact import ExactDuplicates
from clipsieve.scorers.duplicates.groups import group_columns
from clipsieve.scorers.duplicates.keys import CAPTION


class CaptionDuplicates(ExactDuplicates):
    """Groups of rows with equal captions, exactly as they are: 128 bits of their blake2b.

    A row whose caption is missing or blank has no value.
    """

    name, family, prefix = "duplicates.caption", "duplicates", "duplicate_caption"
    source, needs = CAPTION, CAPTION.needs
    columns = group_columns(prefix, "with equal captions", "blake2b of the text, RFC 7693")
