"""Names and values as they stand in SQL text, and names that are close to one."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


def literal(text: str | None) -> str:
    """Return `text` as a value in SQL; see `inside_quotes`.

    >>> literal("it's")
    "'it''s'"
    """
    if text is None:
        return "NULL::VARCHAR"
    return f"'{inside_quotes(text)}'"


def inside_quotes(text: str) -> str:
    """Return `text` as it stands between the quotes of a value.

    A NUL, which ends a statement, and half a surrogate pair, which is no UTF-8, become U+FFFD.
    """
    return _encodable(text).replace("'", "''")


def identifier(name: str) -> str:
    """Return `name` as a name in SQL.

    >>> identifier('a "b" c')
    '"a ""b"" c"'
    """
    return '"' + _encodable(name).replace('"', '""') + '"'


def _encodable(text: str) -> str:
    """Return `text` with U+FFFD for what SQL cannot hold."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)


def without_wildcards(path: str) -> str:
    """Return `path` as a pattern that matches no other path in DuckDB.

    >>> without_wildcards("/data/a[1]*/b.parquet")
    '/data/a[[]1][*]/b.parquet'
    """
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in path)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a question that names those closest to an unknown one, at most three; "" for none.

    Args:
      name: the unknown one; its case of letters does not count.
      known: names that there are.
      cutoff: similarity from 0 to 1 from which a name is close.

    >>> did_you_mean("clip_scor", ["clip_score", "uid", "clip_scores"])
    'did you mean clip_score or clip_scores?'
    >>> did_you_mean("x", ["clip_score", "uid"])
    ''
    """
    lower = {each.lower(): each for each in known}
    close = [lower[each] for each in get_close_matches(name.lower(), lower, n=3, cutoff=cutoff)]
    listed = " or ".join(part for part in (", ".join(close[:-1]), *close[-1:]) if part)
    return f"did you mean {listed}?" if close else ""


def close_names(name: str, known: Iterable[str]) -> str:
    """Return what an error says of the names closest to an unknown one, or of all.

    >>> close_names("clip_scor", ["clip_score", "uid"])
    'did you mean clip_score?'
    >>> close_names("x", ["clip_score", "uid"])
    'there are: clip_score, uid'
    """
    listed = list(known)
    return did_you_mean(name, listed) or f"there are: {', '.join(listed) or 'none'}"
