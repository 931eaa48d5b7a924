"""Parquet with the columns of the view `scores`, a file a shard, and the pictures if asked for.

Pictures are a column `image` as Hugging Face `datasets` knows it, `struct<bytes, path>` with a mark
in the schema's metadata; the bytes are those of the source.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from clipsieve.exports.base import Reads, Written
from clipsieve.exports.folder import ExportFolder
from clipsieve.exports.parts import Part, Span, shard_parts
from clipsieve.exports.pictures import picture_extension
from clipsieve.exports.rows import KeptRows
from clipsieve.schemas import footers
from clipsieve.store.glue import free_name
from clipsieve.store.parquet import ROW_GROUP_ROWS, open_writer

IMAGE = "image"
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
#: A row group with pictures ends at whichever comes first: readers hold a whole one in memory.
_GROUP_ROWS, _GROUP_BYTES = 500, 64 << 20


@dataclass(frozen=True, slots=True)
class ParquetFiles:
    """The format `parquet`.

    Attributes:
      with_images: whether there is a column `image`.
    """

    with_images: bool = False

    @property
    def reads(self) -> Reads:
        """Columns, and pictures if they are asked for."""
        return Reads.COLUMNS | (Reads.PICTURES if self.with_images else Reads.NOTHING)

    def parts(self, counts: Mapping[str, int]) -> tuple[Part, ...]:
        """Return a part for each shard with kept rows; one file without rows for no rows at all."""
        return shard_parts(counts)

    def files(self, part: Part) -> Sequence[str]:
        """Return the one file."""
        return (f"{part.name}.parquet",)

    def write(self, part: Part, rows: KeptRows, folder: ExportFolder) -> Written:
        """Write the file; all files of an export have the same schema."""
        written = Written(rows=part.rows)
        footer = {
            footers.LAYOUT: footers.LAYOUT_VERSION,
            footers.FAMILY: "export",
            footers.REVISION: rows.subset.revision,
            footers.SHARD: part.name,
            footers.ROWS: str(part.rows),
        }
        schema = image_schema(rows.schema) if self.with_images else rows.schema
        missing = 0
        (name,) = self.files(part)
        with folder.writing(name, written.files) as file:
            file.rows = part.rows
            with open_writer(file.path, schema) as writer:
                for span in part.spans:
                    table = rows.table(span)
                    if not self.with_images and len(table):  # not a row group without rows
                        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
                    if not self.with_images:
                        continue
                    for group in _groups(table, span, rows, schema):
                        missing += group[IMAGE].null_count
                        writer.write_table(group)
                writer.add_key_value_metadata(footer)
        written.notes = {"rows without a picture, whose image is NULL": missing} if missing else {}
        return written


def image_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with a column `image` behind it, and the mark that `datasets` reads.

    A column that has the name already becomes `source_image`.
    """
    fields = [
        field.with_name(free_name(field.name, schema.names))
        if field.name.lower() == IMAGE
        else field
        for field in schema
    ]
    mark = {"info": {"features": {IMAGE: {"_type": "Image"}}}}
    return pa.schema(
        [*fields, pa.field(IMAGE, IMAGE_TYPE)],
        metadata={**(schema.metadata or {}), b"huggingface": json.dumps(mark).encode()},
    )


def _groups(table: pa.Table, span: Span, rows: KeptRows, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of a span with their pictures, in tables of a row group."""
    first, size, numbers = 0, 0, table["row"].to_pylist()
    pictures: list[bytes | None] = []

    def group() -> pa.Table:
        columns = table.slice(first, len(pictures)).columns
        paths = [
            None if picture is None else _path(span.shard, number, picture)
            for number, picture in zip(numbers[first:], pictures, strict=False)
        ]
        images = pa.StructArray.from_arrays(
            [pa.array(pictures, pa.binary()), pa.array(paths, pa.string())],
            fields=list(IMAGE_TYPE),
            mask=pa.array([picture is None for picture in pictures]),
        )
        return pa.Table.from_arrays([*columns, images], schema=schema)

    for picture in rows.pictures(span):
        pictures.append(picture)
        size += len(picture or b"")
        if len(pictures) == _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group()
            first, size = first + len(pictures), 0
            pictures.clear()
    if pictures:
        yield group()


def _path(shard: str, row: int, picture: bytes) -> str:
    """Return the name of a picture: shard and row, and the extension if its format is known."""
    extension = picture_extension(picture)
    return f"{shard}-{row:09d}" + (f".{extension}" if extension else "")
