"""A file that an option names: its path, and the hash of the content it was given with."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsieve.definitions import shown
from clipsieve.errors import UsageError


@dataclass(frozen=True, slots=True)
class OptionFile:
    """A file of a user's, which must stay as it is while scores are computed from it.

    Attributes:
      scorer: name of the scorer, and `option` of the option, for messages.
      path: of the file.
      sha256: of its content when it was given; None if the scorer is made without a driver.
    """

    scorer: str
    option: str
    path: str
    sha256: str | None = None

    @classmethod
    def from_value(cls, scorer: str, option: str, value: Any, what: str) -> "OptionFile":
        """Return the file that an option's value names.

        Args:
          scorer: its name.
          option: its name.
          value: a path; or `path` and `sha256`, which the driver makes of it.
          what: the file holds, for the message.

        Raises:
          UsageError: if the value is neither.
        """
        path = value.get("path") if isinstance(value, Mapping) else value
        if not isinstance(path, str) or not path:
            raise UsageError(
                f"scorer {scorer} needs {what}, and option {option} is {shown(value)}; give the "
                f"file: --option {scorer}.{option}=FILE"
            )
        sha256 = value.get("sha256") if isinstance(value, Mapping) else None
        return cls(scorer, option, path, sha256)

    def digest(self) -> str:
        """Return the sha256: as given, or of the file as it is.

        Raises:
          UsageError: if the file cannot be read.
        """
        return self.sha256 or read_file(self.path, self.place)[1]

    @property
    def place(self) -> str:
        """Return what messages call it."""
        return f"option {self.option} of scorer {self.scorer}"

    def read(self) -> bytes:
        """Return the content.

        Raises:
          UsageError: if it cannot be read, or is another than when it was given.
        """
        content, sha256 = read_file(self.path, self.place)
        if self.sha256 not in (None, sha256):
            raise UsageError(
                f"{self.path} has changed since it was given; give it again: "
                f"--option {self.scorer}.{self.option}={self.path}"
            )
        return content


def file_value(path: str, what: str) -> dict[str, str]:
    """Return absolute path and sha256 of a file, as the driver records them.

    Raises:
      UsageError: if it cannot be read.
    """
    place = os.path.abspath(os.path.expanduser(path))
    return {"path": place, "sha256": read_file(place, what)[1]}


def read_file(path: str, what: str) -> tuple[bytes, str]:
    """Return content and sha256 of a file.

    Args:
      path: of the file.
      what: names it, for the message.

    Raises:
      UsageError: if it cannot be read.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{what}: {path} cannot be read ({reason}); give a file") from error
    return content, hashlib.sha256(content).hexdigest()
