"""Text for a terminal: nothing in it steers the terminal, and no encoding ends a command."""

import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

#: Control characters except tab and line feed; separators of lines and paragraphs; surrogates;
#: format characters, which are invisible or turn the direction of text around (category Cf), with
#: the blocks that Unicode keeps for more of them; fillers, which are letters without a shape.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2"
    "\u115f\u1160\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff"
    "\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_BREAKS = re.compile("[\t\n]")


def escaped(text: str) -> str:
    r"""Return text that is safe to show: characters that steer a terminal become escapes.

    Tabs and line feeds stay.

    >>> escaped("\x1b[2J\u202e")
    '\\x1b[2J\\u202e'
    """
    return _STEERING.sub(_escape, text)


def escaped_line(text: str) -> str:
    r"""Return text that is safe to show and stays on its line: `escaped`, with tabs and line feeds.

    >>> escaped_line("a\n\x07")
    'a\\n\\x07'
    """
    return _BREAKS.sub(_escape, escaped(text))


def json_text(value: Any, indent: int | None = None) -> str:
    r"""Return a value as JSON that is safe to show: in ASCII, without control characters.

    >>> json_text("é\x7f")
    '"\\u00e9\\u007f"'
    """
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class EscapingStream:
    """A text stream to which only `escaped` text goes; all else is as in the stream itself.

    Attributes:
      rich_proxied_file: the stream itself, on which rich writes what steers the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write text, escaped; a carriage return before it, as progress bars have it, stays."""
        if not isinstance(text, str):  # click tries whether a stream takes bytes
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        returns, rest = text[:1], text[1:]
        if returns != "\r":
            returns, rest = "", text
        self.rich_proxied_file.write(returns + escaped(rest))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts, one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream."""
        return getattr(self.rich_proxied_file, name)


def escape_stream(name: str) -> None:
    """Let only `escaped` text to `sys.stdout` or `sys.stderr`, whichever is named.

    A character that the stream's encoding lacks becomes an escape too.
    """
    stream = getattr(sys, name)
    if isinstance(stream, EscapingStream):
        return
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    setattr(sys, name, EscapingStream(stream))


@contextmanager
def escaped_streams() -> Iterator[None]:
    """Within the block let only `escaped` text to standard output and standard error.

    They stay so after an exception other than SystemExit: Python writes what its message says.
    """
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        escape_stream(name)
    try:
        yield
    except SystemExit:
        sys.stdout, sys.stderr = before
        raise
    sys.stdout, sys.stderr = before


@contextmanager
def exact_output() -> Iterator[TextIO]:
    """Give standard output as a stream of exact text: UTF-8, nothing escaped, no line translated.

    Where standard output is no stream of bytes, it is given as it is.
    """
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        yield sys.stdout
        return
    sys.stdout.flush()
    text = io.TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", newline="")
    try:
        yield text
    finally:
        text.detach()


def read_input() -> str:
    """Return standard input, which is UTF-8 in any locale.

    Raises:
      UnicodeDecodeError: if it is not.
    """
    binary = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if binary is None else str(binary.read(), "utf-8")
