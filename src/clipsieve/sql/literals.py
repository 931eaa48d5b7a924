"""Names and values as they stand in SQL text, and names that are close to one."""

from collections.abc import Iterable
from difflib import get_close_matches


def literal(text: str | None) -> str:
    """Return `text` as a value in SQL; a NUL, which ends a statement, becomes U+FFFD.

    >>> literal("it's")
    "'it''s'"
    """
    if text is None:
        return "NULL::VARCHAR"
    return "'" + text.replace("\0", "\ufffd").replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return `name` as a name in SQL.

    >>> identifier('a "b" c')
    '"a ""b"" c"'
    """
    return '"' + name.replace("\0", "\ufffd").replace('"', '""') + '"'


def without_wildcards(path: str) -> str:
    """Return `path` as a pattern that matches no other path in DuckDB.

    >>> without_wildcards("/data/a[1]*/b.parquet")
    '/data/a[[]1][*]/b.parquet'
    """
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in path)


def close_names(name: str, known: Iterable[str]) -> str:
    """Return what an error says of the names closest to an unknown one, at most three.

    >>> close_names("clip_scor", ["clip_score", "uid"])
    'closest: clip_score'
    >>> close_names("x", ["clip_score", "uid"])
    'there are: clip_score, uid'
    """
    listed = list(known)
    lower = {each.lower(): each for each in listed}
    close = [lower[each] for each in get_close_matches(name.lower(), lower, n=3)]
    if close:
        return f"closest: {', '.join(close)}"
    return f"there are: {', '.join(listed) or 'none'}"
