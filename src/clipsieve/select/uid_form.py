"""What the uids of an output folder look like, for lists of ids that are meant for it."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.store import names
from clipsieve.store.folder import OutputFolder
from clipsieve.store.id_values import IdKind, canonical_texts

_INTEGERS = ("^(0|-?[1-9][0-9]*)$", "integers")
_DIGITS = tuple(
    (f"^[0-9a-f]{{{count}}}$", f"{count} hexadecimal digits each") for count in (32, 64)
)


@dataclass(frozen=True, slots=True)
class UidForm:
    """What all uids of a folder look like.

    Attributes:
      pattern: that each matches, in canonical form.
      words: the same in words.
      example: one of them.
      place: the folder.
    """

    pattern: str
    words: str
    example: str
    place: str

    def matches(self, texts: pa.Array) -> pa.Array:
        """Return (N,) bool: which uids, (N,) large_string in canonical form, look like it."""
        return pc.match_substring_regex(texts, self.pattern)

    @property
    def refusal(self) -> str:
        """What to say of a text that looks otherwise, after it."""
        return (
            f"is no uid of {self.place}, whose uids are {self.words}, such as {self.example!r}; "
            "correct or remove it, or say another kind with --by"
        )


def uid_form(uids: pa.ChunkedArray, place: str) -> UidForm | None:
    """Return what all uids of a table look like.

    Args:
      uids: (N,) as a ledger has them.
      place: what they are of.

    Returns:
      Integers by the type of the column, 32 or 64 hexadecimal digits by every value; None for any
      others, and without uids.
    """
    texts = canonical_texts(IdKind.UID, uids.drop_null())
    for pattern, words in (_INTEGERS,) if pa.types.is_integer(uids.type) else _DIGITS:
        if len(texts) and pc.all(pc.match_substring_regex(texts, pattern)).as_py():
            return UidForm(pattern, words, texts[0].as_py(), place)
    return None


def other_form(folder: OutputFolder, texts: pa.Array) -> UidForm | None:
    """Return what all uids of a folder look like, if not all of some texts do.

    Shards after the first are read only if some do not.

    Args:
      folder: the output folder.
      texts: (N,) large_string, uids in canonical form.

    Returns:
      None if all do, or the uids of the folder have several forms, or one that is not known.

    Raises:
      LedgerError: if a ledger is missing or damaged.
    """
    form: UidForm | None = None
    for shard in folder.shards():
        uids = folder.read_table(names.samples(shard), ["uid"])["uid"]
        if not len(uids):
            continue
        own = uid_form(uids, folder.root)
        if own is None or (form is not None and form.pattern != own.pattern):
            return None
        if form is None and pc.all(own.matches(texts)).as_py():
            return None
        form = form or own
    return form
