"""Lists of URLs of any kind, read in pieces: columns found by name, rows in order."""

import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from clipsieve.errors import UsageError
from clipsieve.formats.inputs import find_inputs, open_binary
from clipsieve.ingest.shard import PLAN_FIELDS, RESULT_NAMES

#: Column names of lists as they are published, in lower case, best first.
URL_NAMES = ("url", "image_url", "image_link", "img_url")
CAPTION_NAMES = ("caption", "text", "top_caption", "alt_text", "txt")
#: Carried unless other columns are named.
UID = "uid"
BATCH_ROWS = 10_000

_SUFFIXES = {
    **dict.fromkeys((".parquet", ".parq", ".pq"), "parquet"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **{".csv": "csv", ".tsv": "tsv", ".txt": "txt"},
}
_RESERVED = RESULT_NAMES | {field.name for field in PLAN_FIELDS} | {"url", "caption"}


@dataclass(frozen=True, slots=True)
class UrlList:
    """Files of one list, and which of their columns are read.

    Attributes:
      files: path or URL, and kind, of each.
      origins: columns of the files.
      schema: of what `batches` yields: carried columns, then `caption` if there is one, then `url`.
    """

    files: tuple[tuple[str, str], ...]
    origins: tuple[str, ...]
    schema: pa.Schema

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows of all files in order, some thousands at a time.

        Raises:
          UsageError: a file cannot be read, or lacks a column.
        """
        for uri, kind in self.files:
            with _list_errors(uri), _opened(uri) as file:
                for table in _READERS[kind](file, kind, self.origins, uri):
                    yield table.rename_columns(self.schema.names).cast(self.schema)


def open_list(
    patterns: Sequence[str], url_col: str | None, caption_col: str | None, carry: Sequence[str]
) -> UrlList:
    """Return the list that patterns name; files of a folder are those with a suffix of a list.

    Args:
      patterns: paths, globs, folders or URLs.
      url_col: column with the URL; None is the one of a known name.
      caption_col: likewise; a list may have none.
      carry: columns to carry; empty is `uid` if there is one.

    Raises:
      UsageError: there is no list, or a column is missing.
    """
    files = tuple(_files(patterns))
    uri, kind = files[0]
    with _list_errors(uri), _opened(uri) as file:
        schema = _schema(file, kind)
    url = _column(url_col, "url_col", URL_NAMES, schema, uri)
    if url is None:
        raise UsageError(
            f"no column with URLs in {uri}: its columns are {', '.join(schema.names)}; name it "
            "with url_col"
        )
    caption = _column(caption_col, "caption_col", CAPTION_NAMES, schema, uri)
    carried = [name for name in carry or [UID] if carry or name in schema.names]
    for name in carried:
        _require(name, "carry", schema, uri)
        if name in _RESERVED:
            raise UsageError(
                f"carry {name!r} of {uri} is the name of a column that ingest writes; rename it in "
                "the list, or leave it out"
            )
    origins = [*carried, *([caption] if caption else []), url]
    names = [*carried, *(["caption"] if caption else []), "url"]
    if len(set(carried)) < len(carried):
        raise UsageError(f"carry names a column twice: {', '.join(carried)}")
    types = [_plain(schema.field(name).type) for name in origins]
    for name, type_ in list(zip(origins, types, strict=True))[len(carried) :]:
        if not (pa.types.is_string(type_) or pa.types.is_large_string(type_)):
            raise UsageError(f"column {name!r} of {uri} is {type_}, not text; name another")
    fields = [pa.field(name, type_) for name, type_ in zip(names, types, strict=True)]
    return UrlList(files, tuple(origins), pa.schema(fields))


def _files(patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield path and kind of the files that patterns name, in order."""
    for found in find_inputs(patterns):
        if not found.folder:
            kind = _kind(found.uri)
            if kind is None:
                raise UsageError(
                    f"list {found.uri} has none of the suffixes {', '.join(_SUFFIXES)} (.gz); "
                    "rename it by what it is"
                )
            yield found.uri, kind
            continue
        inside = [
            path
            for path in find_inputs(f"{found.uri.rstrip('/')}/**")
            if not path.folder and _kind(path.uri)
        ]
        if not inside:
            raise UsageError(f"folder {found.uri} has no list ({', '.join(_SUFFIXES)}) in it")
        yield from ((path.uri, _kind(path.uri) or "") for path in inside)


def _kind(uri: str) -> str | None:
    name = uri.lower().removesuffix(".gz")
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)


def _column(
    named: str | None, option: str, known: Sequence[str], schema: pa.Schema, uri: str
) -> str | None:
    """Return the column that is named, or the one of the best known name."""
    if named is not None:
        _require(named, option, schema, uri)
        return named
    by_name = {name.lower(): name for name in reversed(schema.names)}
    exact = next((name for name in known if name in schema.names), None)
    return exact or next((by_name[name] for name in known if name in by_name), None)


def _require(name: str, option: str, schema: pa.Schema, uri: str) -> None:
    if name not in schema.names:
        raise UsageError(
            f"{option} {name!r} is not a column of {uri}; its columns are {', '.join(schema.names)}"
        )


def _plain(type_: pa.DataType) -> pa.DataType:
    plain = type_.value_type if pa.types.is_dictionary(type_) else type_
    return pa.string() if pa.types.is_null(plain) else plain


@contextmanager
def _opened(uri: str) -> Iterator[BinaryIO]:
    with open_binary(uri) as raw:
        if uri.lower().endswith(".gz"):
            with gzip.open(raw) as file:
                yield file  # type: ignore[misc]
        else:
            yield raw


@contextmanager
def _list_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, pa.ArrowException, ValueError, UnicodeError) as error:
        text = " ".join(str(error).split())
        raise UsageError(
            f"list {uri} cannot be read: {text}; correct it, then run again"
        ) from error


def _schema(file: BinaryIO, kind: str) -> pa.Schema:
    """Return the columns of a file; values of text files are text."""
    if kind == "parquet":
        return pq.read_schema(file)
    if kind == "txt":
        return pa.schema([("url", pa.string())])
    if kind == "jsonl":
        names = dict.fromkeys(
            name
            for _, record in zip(range(1000), _json_records(file), strict=False)
            for name in record
        )
        return pa.schema([(name, pa.string()) for name in names])
    header = pa.csv.open_csv(file, parse_options=_csv_form(kind)).schema
    return pa.schema([(name, pa.string()) for name in header.names])


def _parquet(file: BinaryIO, kind: str, columns: Sequence[str], uri: str) -> Iterator[pa.Table]:
    source = pq.ParquetFile(file)
    for name in columns:
        _require(name, "column", source.schema_arrow, uri)
    for batch in source.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(columns))):
        yield pa.Table.from_batches([batch]).select(list(columns))


def _csv(file: BinaryIO, kind: str, columns: Sequence[str], uri: str) -> Iterator[pa.Table]:
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()),
        include_columns=list(dict.fromkeys(columns)),
        strings_can_be_null=False,
    )
    reader = pa.csv.open_csv(file, parse_options=_csv_form(kind), convert_options=options)
    for batch in reader:
        yield pa.Table.from_batches([batch]).select(list(columns))


def _csv_form(kind: str) -> Any:
    return pa.csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True)


def _jsonl(file: BinaryIO, kind: str, columns: Sequence[str], uri: str) -> Iterator[pa.Table]:
    rows: list[list[str | None]] = []
    for record in _json_records(file):
        rows.append([_json_text(record.get(name)) for name in columns])
        if len(rows) == BATCH_ROWS:
            yield _text_table(rows, columns)
            rows = []
    if rows:
        yield _text_table(rows, columns)


def _txt(file: BinaryIO, kind: str, columns: Sequence[str], uri: str) -> Iterator[pa.Table]:
    rows: list[list[str | None]] = []
    for line in _lines(file):
        rows.append([line])
        if len(rows) == BATCH_ROWS:
            yield _text_table(rows, columns)
            rows = []
    if rows:
        yield _text_table(rows, columns)


_READERS = {"parquet": _parquet, "csv": _csv, "tsv": _csv, "jsonl": _jsonl, "txt": _txt}


def _text_table(rows: list[list[str | None]], columns: Sequence[str]) -> pa.Table:
    values = zip(*rows, strict=True)
    return pa.Table.from_arrays(
        [pa.array(column, pa.string()) for column in values], [str(i) for i in range(len(columns))]
    )


def _lines(file: BinaryIO) -> Iterator[str]:
    """Yield lines that are not blank; bytes that are not UTF-8 are replaced."""
    for line in file:
        text = line.decode("utf-8", "replace").removeprefix("\ufeff").strip()
        if text:
            yield text


def _json_records(file: BinaryIO) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(file), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"record {number} is not JSON ({error})") from None
        if not isinstance(record, dict):
            raise ValueError(f"record {number} is not a table of columns; one record a line")
        yield record


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
