"""Words of a command as they may be written to files: without credentials."""

import re
from collections.abc import Sequence

#: Options of engines and stores whose values are credentials.
_SECRET = re.compile(r"--[\w-]*(secret|password|token|credential|access[_-]key|sas)[\w-]*", re.I)
_HIDDEN = "..."


def redacted(words: Sequence[str]) -> list[str]:
    """Return the words with `...` for the values of options that hold credentials.

    >>> redacted(["run", "--", "--s3_secret_access_key=abc", "--password", "abc", "--region", "x"])
    ['run', '--', '--s3_secret_access_key=...', '--password', '...', '--region', 'x']
    """
    shown: list[str] = []
    hides_next = False
    for word in words:
        name, equals, _ = word.partition("=")
        is_secret = _SECRET.fullmatch(name) is not None
        if hides_next and not word.startswith("--"):
            shown.append(_HIDDEN)
        elif is_secret and equals:
            shown.append(f"{name}={_HIDDEN}")
        else:
            shown.append(word)
        hides_next = is_secret and not equals
    return shown
