"""What every reader must know of a plan's source: formats, column roles, the carried schema."""

import base64
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clipsieve.read.items import InputFormat


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One source as planned; picklable, and `from_json(to_json())` is equal.

    "Column" is a Parquet column, a key of the samples' JSON, or a column of a metadata file.

    Attributes:
      format: what the rows are stored in.
      flavour: who wrote it: "img2dataset", "huggingface", or the name of the format.
      image: Parquet column of the image, or extension of tar members; None is any picture
        extension (tars) or every picture (folders).
      caption: column of the caption; "txt" is the text member or file; None if there is none.
      uid: column of the uid, or None.
      references: column of the reference captions, or None.
      left_out: columns that are not carried because they hold other pixels.
      carried: names and unified types of `RowBatch.carried`; every field may be null.
      origins: for each carried field the column it comes from.
      uid_type: unified type of the uid column, None without one.
      byte_budget: about how many bytes of images one `RowBatch` holds.
    """

    format: InputFormat
    flavour: str
    image: str | None
    caption: str | None
    uid: str | None
    references: str | None
    left_out: tuple[str, ...]
    carried: pa.Schema
    origins: tuple[str, ...]
    uid_type: pa.DataType | None
    byte_budget: int

    def to_json(self) -> str:
        """Return the configuration as one line of JSON; Arrow types in base64 IPC form."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        fields["carried"] = _encode_schema(self.carried)
        if self.uid_type is not None:
            fields["uid_type"] = _encode_schema(pa.schema([("uid", self.uid_type)]))
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "SourceConfig":
        """Return the configuration that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields["format"] = InputFormat(fields["format"])
        fields["left_out"] = tuple(fields["left_out"])
        fields["origins"] = tuple(fields["origins"])
        fields["carried"] = _decode_schema(fields["carried"])
        if fields["uid_type"] is not None:
            fields["uid_type"] = _decode_schema(fields["uid_type"]).field("uid").type
        return cls(**fields)


def _encode_schema(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


def _decode_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
