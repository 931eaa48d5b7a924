"""One pass over a list: its hash, and digests of its rows."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import pyarrow as pa

from clipsieve.control import Control
from clipsieve.ingest.digests import Digests, as_array, row_digests, url_digests
from clipsieve.ingest.lists import UrlList


class PlanStopped(Exception):
    """The run was stopped while its list was read; nothing was recorded."""


class StoppableList:
    """A list that is read until the run is stopped."""

    def __init__(self, urls: UrlList, control: Control) -> None:
        """Read `urls`; `control` says when to stop."""
        self._urls, self._control = urls, control
        self.files, self.origins, self.schema = urls.files, urls.origins, urls.schema

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows in order; see `UrlList.batches`.

        Raises:
          PlanStopped: the control said to stop.
        """
        for table in self._urls.batches():
            if self._control.stopped:
                raise PlanStopped
            yield table


@dataclass(frozen=True, slots=True)
class Scan:
    """One pass over a list.

    Attributes:
      hash: of columns and rows.
      urls: digests.
      rows: digests of whole rows; empty unless asked for.
    """

    hash: str
    urls: Digests
    rows: Digests


def scan_list(urls: StoppableList, with_rows: bool) -> Scan:
    """Read a list once."""
    columns = {field.name: str(field.type) for field in urls.schema}
    hasher = blake2b(json.dumps(columns).encode(), digest_size=16)
    by_url, by_row = bytearray(), bytearray()
    for table in urls.batches():
        digests = row_digests(table)
        hasher.update(digests)
        by_url += url_digests(table["url"].to_pylist())
        if with_rows:
            by_row += digests
    return Scan(hasher.hexdigest(), as_array(by_url), as_array(by_row))
