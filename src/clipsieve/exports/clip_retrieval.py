"""Embeddings and metadata as clip-retrieval's inference leaves them, for its index and back end.

`img_emb/img_emb_0.npy` and `text_emb/text_emb_0.npy` are float16 of unit norm, rows aligned with
`metadata/metadata_0.parquet`; numbers have as many digits as clip-retrieval would give them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsieve.exports.base import Reads, Written, left_out_rows
from clipsieve.exports.folder import ExportFolder
from clipsieve.exports.parts import Part, even_parts
from clipsieve.exports.rows import KeptRows

#: Columns that clip-retrieval writes first, and where they come from, best first.
_FIRST = (
    ("image_path", ("file_name", "key", "uid")),
    ("caption", ("caption",)),
    ("url", ("url",)),
    ("uid", ("uid",)),
)


@dataclass(frozen=True, slots=True)
class ClipRetrieval:
    """The format `clip-retrieval`.

    Attributes:
      rows_a_file: kept rows of one number; all of its vectors are in memory.
    """

    rows_a_file: int = 200_000
    reads = Reads.COLUMNS | Reads.EMBEDDINGS

    def parts(self, counts: Mapping[str, int]) -> tuple[Part, ...]:
        """Return a part for each number; one without rows for no rows."""
        return even_parts(counts, self.rows_a_file) or (Part("00000", 0, 1, ()),)

    def files(self, part: Part) -> Sequence[str]:
        """Return images, texts and metadata of a number."""
        digits = int(math.log10(part.of)) + 1
        number = f"{part.number:0{digits}d}"
        return (
            f"img_emb/img_emb_{number}.npy",
            f"text_emb/text_emb_{number}.npy",
            f"metadata/metadata_{number}.parquet",
        )

    def write(self, part: Part, rows: KeptRows, folder: ExportFolder) -> Written:
        """Write the three files; rows without both embeddings are left out."""
        written = Written()
        images, texts = [np.empty((0, rows.dim), np.float16)], [np.empty((0, rows.dim), np.float16)]
        tables = [metadata_table(rows.schema.empty_table())]
        left_out = [written.left_out]
        for span in part.spans:
            columns = rows.table(span)
            image, text, both = rows.vectors(span)
            images.append(image)
            texts.append(text)
            tables.append(metadata_table(columns.filter(pa.array(both))))
            reasons = [
                None if has_both else f"no embedding of picture and caption ({status})"
                for has_both, status in zip(both, columns["status"].to_pylist(), strict=True)
            ]
            left_out.append(left_out_rows(columns, reasons))
        table = pa.concat_tables(tables)
        written.rows, written.left_out = table.num_rows, pa.concat_tables(left_out)
        image_file, text_file, metadata = self.files(part)
        for name, vectors in ((image_file, images), (text_file, texts)):
            with folder.writing(name, written.files) as file, open(file.path, "wb") as output:
                np.save(output, np.concatenate(vectors))
                file.rows = table.num_rows
        with folder.writing(metadata, written.files) as file:
            pq.write_table(table, file.path)
            file.rows = table.num_rows
        return written


def metadata_table(columns: pa.Table) -> pa.Table:
    """Return the metadata of rows: `image_path`, `caption`, `url` and `uid`, then all others.

    Args:
      columns: rows of the view `scores`.
    """
    arrays, names = [], []
    for name, origins in _FIRST:
        origin = next((each for each in origins if each in columns.column_names), None)
        column = pa.nulls(len(columns), pa.string()) if origin is None else columns[origin]
        arrays.append(column)
        names.append(name)
    for name in columns.column_names:
        if name.lower() not in names:
            arrays.append(columns[name])
            names.append(name)
    return pa.table(arrays, names=names)
