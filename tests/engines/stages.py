"""A stage whose elements say what becomes of the process that works on them."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clipsieve.control import Control
from clipsieve.errors import UsageError
from clipsieve.stage import Element, Report, Worker
from clipsieve.statistics.counts import RowCounts
from clipsieve.store.folder import OutputFolder
from clipsieve.store.records import DONE, ShardRecord, add_record


@dataclass(frozen=True)
class Eventful:
    """Works on elements `NAME`, `NAME:WHAT`; leaves an object `done/NAME` with its process id.

    WHAT is `kill`, which ends the process; `once`, which does so if nobody did before; `slow`,
    which lasts a while; or the name of an error.  `break_open` and `break_finish` raise there.
    """

    out: str
    run_id: str
    control: Control
    break_open: bool = False
    break_finish: bool = False
    device: str = "cpu"
    name: str = "eventful"

    def elements(self, *texts: str) -> list[Element]:
        return [Element(text.partition(":")[0], text, uri=f"source/{text}") for text in texts]

    def open(self) -> Worker:
        if self.break_open:
            raise UsageError("the weights are not those; copy them")
        return self

    def work(self, elements: Sequence[str]) -> Iterator[Report]:
        folder = OutputFolder.open(self.out)
        for text in elements:
            if self.control.stopped:
                return
            name, _, what = text.partition(":")
            self.control.begin(name)
            self._meet(folder, name, what)
            folder.write_text(f"done/{name}.{os.getpid()}", "")
            add_record(folder, ShardRecord(self.run_id, name, text, DONE, rows=3))
            self.control.end(name)
            yield Report((name,), rows=RowCounts({"ok": 3}, 1))

    def _meet(self, folder: OutputFolder, name: str, what: str) -> None:
        if what == "kill" or (what == "once" and not folder.files.exists(f"died/{name}")):
            folder.write_text(f"died/{name}", "")
            folder.write_text(f"deaths/{name}.{time.time_ns()}", "")
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "ValueError":
            raise ValueError(f"no value in\n{name}")
        if what == "UsageError":
            raise UsageError(f"{name} is of no use; use another")
        if what == "slow":
            time.sleep(0.5)

    def finish(self, total: Report) -> Report:
        if self.break_finish:
            raise UsageError("nothing to finish; begin")
        return total
