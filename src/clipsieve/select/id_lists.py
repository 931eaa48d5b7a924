"""Lists of ids from files: text, NumPy, Parquet and CSV.

* Text (any other ending): one id a line, without the blanks around it; UTF-8, with or without a
  byte-order mark.  Blank lines and lines that begin with `#` are left out.
* `.npy`: pairs of `u8,u8` are uids of 32 hexadecimal digits, as in DataComp; int64 are LAION
  hashes.
* `.parquet`, `.csv`: a column of one of the names in `COLUMNS`, in any case of letters.

`.gz` may follow the ending of a text or CSV file.
"""

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from clipsieve.errors import UsageError
from clipsieve.select.id_lines import IdLines, check_form, check_ids, id_lines, kind_of_lines
from clipsieve.select.uid_form import UidForm, other_form
from clipsieve.store.folder import OutputFolder
from clipsieve.store.id_values import IdKind, canonical_texts
from clipsieve.store.ids import IdList

__all__ = ["COLUMNS", "IdKind", "IdList", "read_folder_list", "read_id_list"]

#: Columns of Parquet and CSV files that hold ids of a kind; the first that a file has is taken.
COLUMNS: Mapping[IdKind, Sequence[str]] = {
    IdKind.UID: ("uid",),
    IdKind.SHA256: ("sha256", "image_sha256"),
    IdKind.URL: ("url",),
    IdKind.LAION_HASH: ("hash", "laion_hash"),
}


def read_folder_list(
    folder: OutputFolder, path: str | os.PathLike[str], by: str | None = None
) -> IdList:
    """Return the ids in a file, of which uids look like those of a folder; see `read_id_list`.

    That is asked only of a folder whose uids all look alike: integers, or 32 or 64 hexadecimal
    digits.

    Raises:
      UsageError: see `read_id_list`; for the first uid that looks otherwise, too.
      LedgerError: if a ledger of the folder is missing or damaged.
    """
    ids = read_id_list(path, by)
    if ids.kind is IdKind.UID and ids.texts is not None:
        form = other_form(folder, ids.texts)
        if form is not None:
            return read_id_list(path, by, form)  # again: it knows the lines
    return ids


def read_id_list(
    path: str | os.PathLike[str], by: str | None = None, form: UidForm | None = None
) -> IdList:
    """Return the ids in a file.

    Without `by`, text is URLs if every line begins with http:// or https://, sha256 if every line
    has 64 hexadecimal digits, LAION hashes if every line is a 64-bit integer, and uids if no line
    is one of these; of the columns of a table the first in the order of `COLUMNS` is taken, and
    the list's `column` says which.  A uid of 64 digits looks like a sha256: say `by="uid"`.

    Args:
      path: of the file; `~` is the user's home.
      by: kind of the ids, one of `IdKind`; None is by the look of them.
      form: what uids must look like; None is any form.

    Raises:
      UsageError: if the file cannot be read, holds no id, or a value that is no id of that kind or
        form.
    """
    place = os.fspath(path)
    kind = None if by is None else _kind(by)
    content = _read(place)
    source, digest = Path(place).name, hashlib.sha256(content).hexdigest()
    name = source.lower()
    if name.endswith(".gz"):
        content, name = _decompressed(content, place), name.removesuffix(".gz")
    column = ""
    values: pa.Array | np.ndarray
    if name.endswith(".npy"):
        kind, values = _npy_ids(content, place, kind, form)
    elif name.endswith((".parquet", ".csv")):
        kind, column, values = _table_ids(content, place, name.endswith(".csv"), kind, form)
    else:
        lines = id_lines(content, place)
        kind = kind or kind_of_lines(lines)
        values = check_ids(kind, lines, form)
        del lines  # millions of ids take gigabytes
    del content
    if not len(values):
        raise UsageError(f"{place} holds no id; a list has one id a line at least")
    if isinstance(values, np.ndarray):
        return IdList.from_hashes(values, source, digest, column)
    return IdList.from_texts(kind, values, source, digest, column)


def _kind(by: str) -> IdKind:
    try:
        return IdKind(by)
    except ValueError:
        raise UsageError(f"by {by!r} is no kind of id; take one of {', '.join(IdKind)}") from None


def _read(place: str) -> bytes:
    try:
        return Path(os.path.expanduser(place)).read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"list {place} cannot be read ({reason}); give the path of a file of ids"
        ) from error


def _decompressed(content: bytes, place: str) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{place} is no gzip file ({error}); unpack it, or rename it") from error


def _npy_ids(
    content: bytes, place: str, by: IdKind | None, form: UidForm | None
) -> tuple[IdKind, pa.Array | np.ndarray]:
    """Return kind and ids of a NumPy file."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{place} is no NumPy array ({error}); save it with numpy.save") from error
    if array.ndim == 1 and array.dtype == np.int64:
        kind: IdKind = IdKind.LAION_HASH
    elif array.ndim == 1 and _is_pairs(array.dtype):
        kind = IdKind.UID
    else:
        raise UsageError(
            f"{place} is an array of {array.dtype} {array.shape}; let it be one-dimensional, of "
            "'u8,u8' (uids of 32 hexadecimal digits) or int64 (LAION hashes)"
        )
    if by not in (None, kind):
        raise UsageError(f"{place} holds ids of kind {kind}, not {by}; leave out --by {by}")
    if kind is IdKind.LAION_HASH:
        return kind, array
    texts = _pair_texts(array)
    check_form(IdLines(texts, np.arange(1, len(texts) + 1), place, "element"), form)
    return kind, texts


def _is_pairs(dtype: np.dtype) -> bool:
    names = dtype.names or ()
    return len(names) == 2 and all(
        dtype[name].kind + str(dtype[name].itemsize) == "u8" for name in names
    )


def _pair_texts(pairs: np.ndarray) -> pa.Array:
    """Return (N,) large_string of 32 hexadecimal digits for (N,) pairs of u8."""
    first, second = pairs.dtype.names or ()
    words = np.stack([pairs[first], pairs[second]], axis=1).astype(">u8")
    digits = pa.py_buffer(words.tobytes().hex().encode())
    offsets = pa.py_buffer(np.arange(0, 32 * len(pairs) + 1, 32, dtype=np.int64))
    return pa.LargeStringArray.from_buffers(len(pairs), offsets, digits)


def _table_ids(
    content: bytes, place: str, is_csv: bool, by: IdKind | None, form: UidForm | None
) -> tuple[IdKind, str, pa.Array | np.ndarray]:
    """Return kind, column and ids of a table."""
    buffer = pa.py_buffer(content)
    try:
        if is_csv:
            columns = pa_csv.open_csv(pa.BufferReader(buffer)).schema.names
            kind, column = _id_column(columns, place, by)
            convert = pa_csv.ConvertOptions(
                include_columns=[column], column_types={column: pa.string()}
            )
            table = pa_csv.read_csv(pa.BufferReader(buffer), convert_options=convert)
        else:
            columns = pq.read_schema(pa.BufferReader(buffer)).names
            kind, column = _id_column(columns, place, by)
            table = pq.read_table(pa.BufferReader(buffer), columns=[column])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind_of_file = "CSV" if is_csv else "Parquet"
        raise UsageError(
            f"{place} cannot be read as {kind_of_file} ({error}); correct the file"
        ) from error
    values = table[column]
    if values.null_count:
        row = pc.index(values.is_null(), True).as_py() + 1
        raise UsageError(f"{place}, row {row}: {column} is NULL, which is no id; remove the row")
    return kind, column, _column_ids(kind, column, values.combine_chunks(), place, form)


def _column_ids(
    kind: IdKind, column: str, values: pa.Array, place: str, form: UidForm | None
) -> pa.Array | np.ndarray:
    """Return the ids in a column without NULL, checked; see `check_ids`."""
    types = pa.types
    if kind is IdKind.LAION_HASH and types.is_integer(values.type):
        return np.asarray(values.to_numpy()).astype(np.int64)  # unsigned ones keep their bits
    is_text = types.is_string(values.type) or types.is_large_string(values.type)
    is_bytes = types.is_binary(values.type) or types.is_fixed_size_binary(values.type)
    is_fit = {IdKind.UID: is_text or is_bytes or types.is_integer(values.type)}
    is_fit |= {IdKind.SHA256: is_text or is_bytes, IdKind.URL: is_text, IdKind.LAION_HASH: is_text}
    if not is_fit[kind]:
        raise UsageError(
            f"{place}: column {column} is {values.type}, which holds no ids of kind {kind}; "
            "write it as text, or say another kind with --by"
        )
    numbers = np.arange(1, len(values) + 1)
    return check_ids(kind, IdLines(canonical_texts(kind, values), numbers, place, "row"), form)


def _id_column(columns: Sequence[str], place: str, by: IdKind | None) -> tuple[IdKind, str]:
    """Return the kind and name of the column that holds ids."""
    lower = {name.lower(): name for name in reversed(columns)}
    for kind in IdKind if by is None else (by,):
        for name in COLUMNS[kind]:
            if name in lower:
                return kind, lower[name]
    known = COLUMNS[by] if by else [COLUMNS[kind][0] for kind in IdKind]
    listed = " or ".join(part for part in (", ".join(known[:-1]), known[-1]) if part)
    raise UsageError(
        f"{place} has columns {', '.join(columns)}, none of them known to hold ids; name the "
        f"column {listed}"
    )
