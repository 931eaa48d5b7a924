"""What a run tells while it works: one live line on a terminal, plain or JSON lines elsewhere.

Everything goes to standard error; standard output is for results.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.text import Text

from clipsieve.control import STAGES, Snapshot
from clipsieve.job.error_stream import ErrorConsole, ignoring_broken_pipe
from clipsieve.terminal import escaped_line, json_text
from clipsieve.threads import in_background

LIVE_SECONDS = 0.5
LINE_SECONDS = 10.0


class Reporter:
    """Reports what happens, in the form that the reader of standard error can use."""

    def __init__(self, log_format: str = "auto", run_id: str | None = None) -> None:
        """Report as `text`, `json`, or `auto`, which is text."""
        self.console = ErrorConsole()
        terminal = self.console.is_terminal
        self.json = log_format == "json"
        self.live = terminal and not self.json
        self.run_id = run_id
        self._is_muted = False

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Within the block report nothing: it repeats what was reported."""
        self._is_muted = True
        try:
            yield
        finally:
            self._is_muted = False

    def report(self, event: str, text: str, **fields: Any) -> None:
        """Write one line: `text`, or as JSON with `fields`."""
        self.report_lines(event, [text], **fields)

    def report_lines(self, event: str, lines: Sequence[str], **fields: Any) -> None:
        """Write lines, or as one line of JSON with `fields`."""
        if self._is_muted:
            return
        if self.json:
            line = {"time": round(time.time(), 3), "event": event, "run_id": self.run_id}
            with ignoring_broken_pipe():
                sys.stderr.write(json_text({**line, "text": "\n".join(lines), **fields}) + "\n")
                sys.stderr.flush()
        else:
            shown = "\n".join(map(escaped_line, lines))
            self.console.print(shown, markup=False, soft_wrap=True)

    @contextmanager
    def watching(
        self, snapshot: Callable[[], Snapshot], total: int | None, unit: str = "rows"
    ) -> Iterator[None]:
        """Within the block show `snapshot()` against `total` rows, as it changes."""
        start = time.monotonic()

        def lines(ended: threading.Event) -> None:
            while not ended.wait(LINE_SECONDS):
                now = snapshot()
                text = self._progress(now, total, time.monotonic() - start, unit)
                self.report("progress", text, total_rows=total, **now.to_json())

        if not self.live:
            with in_background(lines, "clipsieve-progress"):
                yield
            return

        def line() -> Text:
            text = self._progress(snapshot(), total, time.monotonic() - start, unit)
            return Text(text, no_wrap=True, overflow="ellipsis")

        with Live(
            get_renderable=line,
            console=self.console,
            refresh_per_second=1 / LIVE_SECONDS,
            transient=True,
        ):
            yield

    def _progress(self, now: Snapshot, total: int | None, elapsed: float, unit: str) -> str:
        """The progress line, in what the terminal has."""
        text = progress_line(now, total, elapsed, unit)
        return text.replace(" · ", " | ") if self.console.is_ascii else text


def progress_line(now: Snapshot, total: int | None, elapsed: float, unit: str = "rows") -> str:
    """Rows, rate, time left, where the time goes, and failures, on one line.

    The stage with the largest share of busy time is the bottleneck; stages run at the same time,
    so shares are of busy time, not of the clock.

    >>> busy = {"read": 1.0, "decode": 3.0, "encode": 16.0}
    >>> progress_line(Snapshot(500, 3, seconds=busy), 1000, 10.0)
    '500/1,000 rows · 50/s · 0:10 left · 3 not ok · read 5% decode 15% encode 80% write 0%'
    """
    rate = now.rows / elapsed if elapsed > 0 else 0.0
    parts = [f"{now.rows:,}/{total:,} {unit}" if total is not None else f"{now.rows:,} {unit}"]
    parts.append(f"{rate:,.0f}/s")
    if total is not None and rate > 0:
        parts.append(f"{clock(max(total - now.rows, 0) / rate)} left")
    parts.append(f"{now.failed_rows:,} not ok")
    if now.failed_shards:
        parts.append(f"{now.failed_shards} shards failed")
    shares = now.shares()
    if now.seconds:  # workers on other machines do not tell
        parts.append(" ".join(f"{stage} {shares[stage]:.0%}" for stage in STAGES))
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """A length of time as hours, minutes and seconds.

    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
