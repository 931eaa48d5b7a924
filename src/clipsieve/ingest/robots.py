"""robots.txt as RFC 9309 has it: groups, longest match, `*` and `$`; and what is known of origins.

Patterns are matched by searching their parts one after the other: no text of a server's becomes a
regular expression, and none takes long.
"""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from clipsieve.ingest.outcomes import FetchError

#: Of clipsieve in robots.txt and X-Robots-Tag.
PRODUCT = "clipsieve"
#: Bytes of a robots.txt that are read; RFC 9309 asks for 500 KiB.
MAX_ROBOTS = 512 << 10
_MAX_RULES = 10_000
#: Origins whose rules are kept.
_KEPT_ORIGINS = 5_000
#: Times that a robots.txt is asked for in vain before it is left alone for a while; and how long
#: what is known of an origin holds (RFC 9309: a day at most).
_ATTEMPTS, _FAILURE_SECONDS, _RULES_SECONDS = 3, 600.0, 86_400.0
#: Longer rules are of no use: no URL is matched by them.
_MAX_PATTERN = 8_192


@dataclass(frozen=True, slots=True)
class Rules:
    """What one origin allows us.

    Attributes:
      rules: (pattern, whether it allows), the longest pattern first, allowing ones before others.
    """

    rules: tuple[tuple[str, bool], ...] = ()

    def allows(self, target: str) -> bool:
        """Return whether a path with its query may be asked for; the longest pattern decides."""
        path = _normal(target)
        return next((allowed for rule, allowed in self.rules if _matches(rule, path)), True)


def parse_robots(text: str, product: str = PRODUCT) -> Rules:
    r"""Return the rules for us in a robots.txt; those for `*` if no group names us.

    >>> rules = parse_robots("User-agent: *\nDisallow: /private\nAllow: /private/open$")
    >>> rules.allows("/private/x"), rules.allows("/private/open"), rules.allows("/y")
    (False, True, True)
    """
    groups: dict[str, list[tuple[str, bool]]] = {}
    agents: list[str] = []
    in_rules = True
    for line in text.lstrip("\ufeff").splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            if in_rules:
                agents, in_rules = [], False
            agents.append(_agent(value))
        elif name in ("allow", "disallow"):
            in_rules = True
            for agent in agents:
                rules = groups.setdefault(agent, [])
                if value and len(value) <= _MAX_PATTERN and len(rules) < _MAX_RULES:
                    rules.append((_normal(value), name == "allow"))
    # A group without rules is one, too: it allows everything.
    for agent in agents:
        groups.setdefault(agent, [])
    chosen = groups.get(product, groups.get("*", []))
    chosen.sort(key=lambda rule: (-len(rule[0]), not rule[1]))
    return Rules(tuple(chosen))


def is_disallowed_by_tag(
    values: Iterable[str], directives: Iterable[str], product: str = PRODUCT
) -> str | None:
    """Return the directive of `X-Robots-Tag` headers that forbids our use, or None.

    A value may be for one user agent: `clipsieve: noai`.

    >>> is_disallowed_by_tag(["googlebot: noindex", "noarchive, NoAI"], ["noai", "noindex"])
    'noai'
    """
    refused = set(directives)
    for value in values:
        agent, colon, rest = value.partition(":")
        words = value
        if colon and re.fullmatch(r"\s*[\w*-]+\s*", agent):
            if agent.strip().lower() not in (product, "*"):
                continue
            words = rest
        for word in words.split(","):
            if word.strip().lower() in refused:
                return word.strip().lower()
    return None


class RobotsCache:
    """Rules of origins, each read once; threads that ask meanwhile wait for the one that reads."""

    def __init__(self, read: Callable[[str, float], Rules | FetchError]) -> None:
        """Take what reads the rules of an origin until a deadline, or says why it cannot."""
        self._read = read
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def rules(self, origin: str, deadline: float) -> Rules:
        """Return the rules of an origin.

        Raises:
          FetchError: they cannot be read, for which RFC 9309 says that nothing is allowed.
        """
        with self._lock:
            entry = self._known.get(origin)
            is_first = entry is None
            if entry is None:
                entry = self._known[origin] = _Entry()
                while len(self._known) > _KEPT_ORIGINS:
                    self._known.popitem(last=False)
            else:
                self._known.move_to_end(origin)
        with entry.lock:
            if entry.answer is None or (not is_first and entry.is_worth_another):
                entry.answer = self._read(origin, deadline)
                entry.failures += isinstance(entry.answer, FetchError)
                entry.read_at = time.monotonic()
        answer = entry.answer
        if isinstance(answer, FetchError):
            raise FetchError(answer.reason, may_pass=answer.may_pass)
        return answer


class _Entry:
    """What is known of an origin."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.answer: Rules | FetchError | None = None
        self.failures = 0
        self.read_at = 0.0

    @property
    def is_worth_another(self) -> bool:
        age = time.monotonic() - self.read_at
        if not isinstance(self.answer, FetchError):
            return age > _RULES_SECONDS
        is_first_failures = self.answer.may_pass and self.failures < _ATTEMPTS
        return is_first_failures or age > _FAILURE_SECONDS


def _agent(value: str) -> str:
    """The product token of a `User-agent` line, in lower case."""
    token = re.match(r"[a-zA-Z_-]+", value)
    return "*" if value.startswith("*") else token[0].lower() if token else ""


def _normal(target: str) -> str:
    """Escapes in one form: those of unreserved characters undone, all other bytes escaped."""
    parts = re.split(r"(%2[fFaA]|%24|%3[fF]|%25|[*$/?&=:@!'()+,;])", target)
    return "".join(
        part.upper() if index % 2 else quote(unquote_to_bytes(part), safe="")
        for index, part in enumerate(parts)
    )


def _matches(pattern: str, path: str) -> bool:
    """Whether a path begins as a pattern says; `*` is anything, `$` at the end is the end."""
    is_whole = pattern.endswith("$")
    first, *parts = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    if not parts:
        return not is_whole or path == first
    at = len(first)
    for part in parts[:-1]:
        found = path.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    last = parts[-1]
    if is_whole:
        return path.endswith(last) and len(path) - len(last) >= at
    return path.find(last, at) >= 0
