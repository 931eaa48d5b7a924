"""Webdataset tars in the shape that img2dataset gives them: original pictures, captions, JSON.

Of tar 3 there are `00003.tar` with the members `000030000.jpg`, `.txt` and `.json` of each sample,
`00003.parquet` with what is in the JSON, and `00003_stats.json`.  Columns of type uint64 are text
in the JSON, in decimal digits: its readers take whole numbers for int64.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clipsieve.exports.base import Reads, Written, left_out_rows
from clipsieve.exports.folder import ExportFolder
from clipsieve.exports.parts import Part, even_parts
from clipsieve.exports.pictures import picture_extension
from clipsieve.exports.rows import KeptRows
from clipsieve.exports.tar_file import TarWriter
from clipsieve.schemas import footers
from clipsieve.store.glue import free_name
from clipsieve.store.parquet import ROW_GROUP_ROWS, open_writer

KEY = "key"
_SHARD_DIGITS = 5
_BUFFER = 1 << 20
#: Columns that img2dataset's readers expect, and where they come from if the source has none.
_EXPECTED = (
    ("url", pa.string(), None),
    ("width", pa.int32(), "image_width"),
    ("height", pa.int32(), "image_height"),
)


@dataclass(frozen=True, slots=True)
class Tars:
    """The format `tars`.

    Attributes:
      samples_per_tar: kept rows a tar.
    """

    samples_per_tar: int = 10_000
    reads = Reads.COLUMNS | Reads.PICTURES

    def parts(self, counts: Mapping[str, int]) -> tuple[Part, ...]:
        """Return a part for each tar; () for no rows."""
        return even_parts(counts, self.samples_per_tar)

    def files(self, part: Part) -> Sequence[str]:
        """Return the tar, its metadata and its statistics."""
        return tuple(f"{_stem(part)}{ending}" for ending in (".tar", ".parquet", "_stats.json"))

    def write(self, part: Part, rows: KeptRows, folder: ExportFolder) -> Written:
        """Write the three files; the tar as a stream."""
        written = Written()
        samples, left_out = [], []
        tar, table, stats = self.files(part)
        position = 0
        with (
            folder.writing(tar, written.files) as file,
            open(file.path, "wb", buffering=_BUFFER) as output,
        ):
            archive = TarWriter(output)
            for span in part.spans:
                columns = rows.table(span)
                keys = [self.key(part, position + at) for at in range(len(columns))]
                position += len(columns)
                listed = sample_table(columns, keys)
                reasons = [
                    _add_sample(archive, sample, picture)
                    for sample, picture in zip(
                        json_table(listed).to_pylist(), rows.pictures(span), strict=True
                    )
                ]
                missing = left_out_rows(columns, reasons)
                left_out.append(missing)
                if missing.num_rows:
                    listed = listed.filter(pa.array([reason is None for reason in reasons]))
                samples.append(listed)
            archive.close()
            file.rows = written.rows = sum(map(len, samples))
        written.left_out = pa.concat_tables(left_out)
        self._write_table(table, pa.concat_tables(samples), rows, written, folder)
        self._write_stats(stats, part, written, folder)
        return written

    def key(self, part: Part, position: int) -> str:
        """Return the name of a sample: number of the tar, then its position, as img2dataset does.

        >>> Tars(10_000).key(Part("00003", 3, 4, ()), 17)
        '000030017'
        """
        digits = math.ceil(math.log10(self.samples_per_tar))
        return f"{_stem(part)}{position:0{digits}d}" if digits else _stem(part)

    def _write_table(
        self, name: str, table: pa.Table, rows: KeptRows, written: Written, folder: ExportFolder
    ) -> None:
        footer = {
            footers.LAYOUT: footers.LAYOUT_VERSION,
            footers.FAMILY: "export",
            footers.REVISION: rows.subset.revision,
            footers.ROWS: str(table.num_rows),
        }
        with folder.writing(name, written.files) as file:
            file.rows = table.num_rows
            with open_writer(file.path, table.schema) as writer:
                writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
                writer.add_key_value_metadata(footer)

    def _write_stats(self, name: str, part: Part, written: Written, folder: ExportFolder) -> None:
        """Write img2dataset's statistics; times are 0, for equal exports are equal bytes."""
        reasons = Counter(written.left_out["reason"].to_pylist())
        stats = {
            "count": part.rows,
            "successes": written.rows,
            "failed_to_download": written.left_out.num_rows,
            "failed_to_resize": 0,
            "duration": 0.0,
            "start_time": 0.0,
            "end_time": 0.0,
            "status_dict": {"success": written.rows, **dict(sorted(reasons.items()))},
        }
        with folder.writing(name, written.files) as file:
            file.path.write_text(json.dumps(stats, indent=4), encoding="utf-8")


def sample_table(columns: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return the metadata of samples: their keys, then all columns.

    The source's own `key` becomes `source_key`; `url`, `width` and `height` are added where the
    source has none.

    Args:
      columns: N rows of the view `scores`.
      keys: N names.
    """
    taken = {name.lower() for name in columns.column_names}
    arrays, fields = [pa.array(keys, pa.string())], [pa.field(KEY, pa.string())]
    for name, kind, origin in _EXPECTED:
        if name not in taken:
            arrays.append(columns[origin] if origin else pa.nulls(len(columns), kind))
            fields.append(pa.field(name, kind))
    for field in columns.schema:
        is_key = field.name.lower() == KEY
        name = free_name(field.name, columns.column_names) if is_key else field.name
        arrays.append(columns[field.name])
        fields.append(field.with_name(name))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def json_table(samples: pa.Table) -> pa.Table:
    """Return the metadata of samples for their JSON: uint64 as text, in decimal digits.

    By the type of a column, not by its values, so that it has one type in all samples; in lists and
    structs too.

    >>> json_table(pa.table({"a": pa.array([2**64 - 1, None], pa.uint64())})).to_pydict()
    {'a': ['18446744073709551615', None]}
    """
    return samples.cast(
        pa.schema([field.with_type(_json_type(field.type)) for field in samples.schema])
    )


def sample_json(sample: Mapping[str, Any]) -> bytes:
    """Return the metadata of a sample as JSON; NaN and infinities become null, other types text."""
    try:
        text = json.dumps(sample, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        text = json.dumps(_plain(sample), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")


def _add_sample(archive: TarWriter, sample: Mapping[str, Any], picture: bytes | None) -> str | None:
    """Write a sample's members; why it cannot be in a tar, or None."""
    if picture is None:
        return f"no picture bytes in the source ({sample['status']})"
    extension = picture_extension(picture)
    if extension is None:
        return f"its bytes begin as no known picture format ({sample['status']})"
    key = sample[KEY]
    archive.add(f"{key}.{extension}", picture)
    archive.add(f"{key}.txt", (sample["caption"] or "").encode("utf-8", "replace"))
    archive.add(f"{key}.json", sample_json(sample))
    return None


def _json_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_uint64(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_json_type(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_json_type(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        values = kind.value_field.with_type(_json_type(kind.value_type))
        return pa.list_(values, kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_json_type(kind.value_type)))
    return kind


def _plain(value: Any) -> Any:
    """Return a value of plain JSON types."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)


def _stem(part: Part) -> str:
    """Return the number of a tar, in as many digits as the last one needs, at least five."""
    return f"{part.number:0{max(_SHARD_DIGITS, len(str(part.of - 1)))}d}"
