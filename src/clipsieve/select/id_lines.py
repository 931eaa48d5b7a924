"""Values of a list, checked: lines of a text file, or rows of a column, of one kind of id."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsieve.errors import UsageError
from clipsieve.select.uid_form import UidForm
from clipsieve.store.id_values import IdKind, canonical_texts

#: Bytes of a line; a longer one is no id.
LONGEST = 4096
_SHOWN = 80
_URL = r"(?i)^https?://[^\s]+$"
#: URLs and uids of tables may have blanks inside.
_URL_OF_TABLE, _UID_OF_TABLE = r"(?is)^https?://.+$", r"(?s)^.+$"
_SHA256 = "^[0-9a-fA-F]{64}$"
_INTEGER = "^[+-]?[0-9]{1,19}$"
#: What a value of each kind is, as an expression and in words.
_FORMS = {
    IdKind.UID: (r"^[^\s]+$", "a uid (text without blanks in it)"),
    IdKind.SHA256: (_SHA256, "a sha256 (64 hexadecimal digits)"),
    IdKind.URL: (_URL, "a URL (http:// or https://, without blanks in it)"),
    IdKind.LAION_HASH: (_INTEGER, "a LAION hash (an integer of 64 bits)"),
}


@dataclass(frozen=True, slots=True)
class IdLines:
    """Values that should be ids.

    Attributes:
      texts: (N,) large_string, none NULL.
      numbers: (N,) int64, of the line or row of each, from 1.
      place: the file.
      unit: "line", or "row" or "element" of a table or array.
    """

    texts: pa.Array
    numbers: np.ndarray
    place: str
    unit: str = "line"

    def refusal(self, at: int, reason: str) -> UsageError:
        """Return the error for the value at a position."""
        text = self.texts[at].as_py()
        shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
        return UsageError(f"{self.place}, {self.unit} {self.numbers[at]}: {shown} {reason}")


def id_lines(content: bytes, place: str) -> IdLines:
    """Return the lines of a text file that are neither blank nor comments.

    Raises:
      UsageError: if it is no text, or a line is too long.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    data = np.frombuffer(content, np.uint8)
    if len(data) and (data == 0).any():
        number = 1 + content.count(b"\n", 0, content.index(b"\0"))
        raise UsageError(
            f"{place}, line {number}: a NUL byte; this is no text in UTF-8: give a text file, or "
            "one that ends in .npy, .parquet or .csv"
        )
    offsets = np.concatenate([[0], np.flatnonzero(data == ord("\n")) + 1, [len(data)]])
    sizes = np.diff(offsets)
    if (sizes > LONGEST).any():
        number = int(np.argmax(sizes > LONGEST)) + 1
        begin = content[offsets[number - 1] :][:_SHOWN].decode(errors="replace")
        raise UsageError(
            f"{place}, line {number}: {begin + '...'!r} has {sizes[number - 1]:,} bytes, more than "
            f"{LONGEST:,}; give one id a line"
        )
    buffers = (pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(content))
    lines = pa.Array.from_buffers(pa.large_binary(), len(sizes), [None, *buffers])
    try:
        texts = pc.utf8_trim_whitespace(lines.cast(pa.large_string()))
    except pa.ArrowInvalid as error:
        raise _not_utf8(content, place) from error
    is_id = pc.and_(
        pc.not_equal(texts, ""), pc.invert(pc.starts_with(texts, pattern="#"))
    ).to_numpy(zero_copy_only=False)
    numbers = np.flatnonzero(is_id)
    return IdLines(texts.take(pa.array(numbers)), numbers + 1, place)


def kind_of_lines(lines: IdLines) -> IdKind:
    """Return the kind that all lines look like; `uid` if there is none.

    Raises:
      UsageError: naming the first line that looks different from most.
    """
    shapes = np.zeros(len(lines.texts), np.int8)
    kinds = (IdKind.UID, IdKind.URL, IdKind.SHA256, IdKind.LAION_HASH)
    for number, form in enumerate((r"(?i)^https?://", _SHA256, _INTEGER), 1):
        is_form = pc.match_substring_regex(lines.texts, form)
        shapes[is_form.to_numpy(zero_copy_only=False).astype(bool)] = number
    counts = np.bincount(shapes, minlength=len(kinds))
    usual = int(np.argmax(counts))
    if len(lines.texts) and counts[usual] < len(shapes):
        at = int(np.argmax(shapes != usual))
        raise lines.refusal(
            at,
            f"looks like a {kinds[shapes[at]]}, and most lines like a {kinds[usual]}; correct it, "
            "give each kind a list of its own, or say --by uid if all are uids",
        )
    return kinds[usual]


def check_ids(kind: IdKind, lines: IdLines, uids: UidForm | None = None) -> pa.Array | np.ndarray:
    """Return the ids, (N,) large_string in canonical form, or (N,) int64 of LAION hashes.

    If the first uid has 32 or 64 hexadecimal digits, every other must have 32 or 64.  A uid in a
    line has neither quotes nor commas: that is CSV under the name of a text file.

    Args:
      kind: of all of them.
      lines: values that should be ids.
      uids: what uids must look like; None is any form.

    Raises:
      UsageError: for the first value that is no id of this kind.
    """
    if kind is IdKind.UID and lines.unit == "line":
        _check(lines, '^[^",]*$', "looks like CSV: name the file .csv, with a header")
    form, words = _FORMS[kind]
    if lines.unit == "row":
        form = {IdKind.URL: _URL_OF_TABLE, IdKind.UID: _UID_OF_TABLE}.get(kind, form)
    _check(lines, form, f"is not {words}; correct or remove it, or say another kind with --by")
    if kind is IdKind.LAION_HASH:
        return _hashes(lines, words)
    texts = canonical_texts(kind, lines.texts)
    digits = "^([0-9a-f]{32}|[0-9a-f]{64})$"
    if kind is IdKind.UID and len(texts) and pc.match_substring_regex(texts[:1], digits)[0].as_py():
        reason = "is not 32 or 64 hexadecimal digits, as the first uid is; correct or remove it"
        _check(IdLines(texts, lines.numbers, lines.place, lines.unit), digits, reason)
    if kind is IdKind.UID:
        check_form(IdLines(texts, lines.numbers, lines.place, lines.unit), uids)
    return texts


def check_form(lines: IdLines, uids: UidForm | None) -> None:
    """Refuse the first uid, in canonical form, that looks otherwise than those of a folder."""
    if uids is not None:
        _check(lines, uids.pattern, uids.refusal)


def _check(lines: IdLines, form: str, reason: str) -> None:
    """Refuse the first value that an expression does not match."""
    matches = pc.match_substring_regex(lines.texts, form)
    at = pc.index(matches, False).as_py()
    if at >= 0:
        raise lines.refusal(at, reason)


def _hashes(lines: IdLines, words: str) -> np.ndarray:
    """Return integers of 64 bits."""
    plain = pc.replace_substring_regex(lines.texts, r"^\+", "")
    try:
        return np.asarray(plain.cast(pa.int64()).to_numpy())
    except pa.ArrowInvalid:
        for at, text in enumerate(plain.to_pylist()):
            if not -(2**63) <= int(text) < 2**63:
                raise lines.refusal(at, f"is not {words}: it has more; correct it") from None
        raise


def _not_utf8(content: bytes, place: str) -> UsageError:
    number = 1
    try:
        content.decode()
    except UnicodeDecodeError as error:
        number = 1 + content.count(b"\n", 0, error.start)
    line = content.split(b"\n", number)[number - 1][:_SHOWN]
    return UsageError(f"{place}, line {number}: {line!r} is not UTF-8; save the file as UTF-8 text")
