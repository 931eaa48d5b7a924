"""The rich console of commands: styles and tables are its own, text from data cannot steer it."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from clipsieve.terminal import escaped


class SafeConsole(Console):
    """A console that shows all text `escaped`; boxes are ASCII where the encoding is not UTF.

    What steers the terminal is made from styles after that.
    """

    def __init__(self, stderr: bool = False) -> None:
        """Write to standard output, or to standard error."""
        super().__init__(stderr=stderr, highlight=False)

    @property
    def is_ascii(self) -> bool:
        """Whether the encoding may lack lines, blocks and dots."""
        return self.options.ascii_only

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of a renderable, with escaped text."""
        for segment in super().render(renderable, options):
            if segment.control is None:
                segment = Segment(escaped(segment.text), segment.style)
            yield segment
