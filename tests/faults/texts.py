"""Names and captions that break terminals, file systems, quoting and encodings."""

import random

ESC = "\x1b"
#: What a terminal would obey, or show in another order than it is.
CONTROL = (
    f"{ESC}]0;owned\x07",
    f"{ESC}[2J{ESC}[H",
    f"{ESC}[31mred{ESC}[0m",
    f"{ESC}]52;c;ZXZpbA==\x07",
    f"{ESC}]8;;http://example.org{ESC}\\link{ESC}]8;;{ESC}\\",
    f"{ESC}P$q{ESC}\\",
    f"{ESC}c",
    "\x9b31mc1\x9b0m",
    "\x90dcs\x9c",
    "a\rb",
    "\x08\x08\x08over",
    "bell\x07",
    "\x7f",
    "\u202egnp.exe",
    "\u2066isolate\u2069",
    "\u202artl\u202c",
    "a\x00b",
    "line\nbreak",
    "[bold]markup[/bold]",
    "[link=http://x]y[/link]",
)
#: Harmless to a terminal, hard on all else.
ODD = (
    "日本語" * 8,
    "\u0435\u0301 ñ ß \u0130 \u0131",
    "👩‍👩‍👧‍👦",
    "'; DROP TABLE scores; --",
    "\"quoted\" 'both'",
    "{a,b}[c]*?",
    "%2e%2e%2f%00",
    "$(touch x) `y` ${z}",
    "a,b;c|d&e",
    "  spaces  ",
    "-rf",
    "~",
    "NaN",
    "\ufeffbom",
    "x" * 3000,
)


def caption(rng: random.Random) -> str:
    """Return a hostile caption, alone or in a sentence."""
    text = rng.choice(CONTROL + ODD)
    return text if rng.random() < 0.5 else f"a photo of {text} on a table"


def file_name(rng: random.Random, suffix: str) -> bytes:
    """Return a hostile name of at most 255 bytes that ends in `suffix`."""
    room = 255 - len(suffix)
    makers = (
        lambda: rng.choice(CONTROL),
        lambda: rng.choice(ODD),
        lambda: "n" * rng.choice((150, 180, 200, 215, 230, room)),
        lambda: "日" * rng.choice((20, 25, 40, room // 3)),
        lambda: "é" * rng.choice((60, 110, room // 2)),
        lambda: "name" + suffix,
        lambda: "a.tmp-" + "0" * 32,
        lambda: rng.choice(("_x", ".hidden", "..", "...", "a..b", "CON", "a\\b", "a=b", "#frag")),
    )
    text = rng.choice(makers)().replace("/", "_").replace("\x00", "0")
    name = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        name = rng.choice((b"\xff\xfe", b"caf\xe9", b"\x80abc")) + name
    return (
        name[:room].decode("utf-8", "ignore").encode() + suffix.encode()
        if rng.random() < 0.8
        else (name[:room] + suffix.encode())
    )
