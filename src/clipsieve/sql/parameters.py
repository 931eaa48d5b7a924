"""Parameters of recipes: how they are declared, and which values stand for them in SQL.

A declaration is a comment line at the head of a recipe:

    -- set NAME: KIND [LOW..[HIGH]] = DEFAULT  -- what it is

    number    NULL or a finite number, written without an exponent so that it is exact
    integer   a whole number
    text      any text, as a quoted value
    column    a column of the view `scores`
    score     a column of numbers of that view
    revision  a revision on disk of the family of the recipe's `column`; active, or previous

The default of a column may be several, `domain | url`: the first that there is.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from clipsieve.errors import UsageError
from clipsieve.sql.literals import literal

NUMBER, INTEGER, TEXT, COLUMN, SCORE, REVISION = (
    "number",
    "integer",
    "text",
    "column",
    "score",
    "revision",
)
_FORM = re.compile(
    r"-- set (?P<name>[a-z]\w*): (?P<kind>number|integer|text|column|score|revision)"
    r"(?: (?P<low>-?[\d.]+?)\.\.(?P<high>-?[\d.]+)?)? = (?P<default>.+?)  -- (?P<doc>.+)"
)
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a recipe.

    Attributes:
      name: as `--set` takes it.
      kind: see the module.
      default: as it is declared.
      doc: what it is, in one line.
      low: least number; None without a bound.
      high: greatest number; None without a bound.
    """

    name: str
    kind: str
    default: str
    doc: str
    low: str | None = None
    high: str | None = None

    @classmethod
    def parse(cls, line: str) -> "Parameter":
        """Read a declaration.

        Raises:
          ValueError: if the line is none.
        """
        form = _FORM.fullmatch(line)
        if form is None:
            raise ValueError(f"{line!r} is not `-- set NAME: KIND = DEFAULT  -- what it is`")
        return cls(**form.groupdict())

    @property
    def expected(self) -> str:
        """What a value is, in words.

        >>> Parameter.parse("-- set keep: number 0..1 = 0.3  -- share to keep").expected
        'number from 0 to 1'
        """
        words = {SCORE: "column of numbers"}
        bounds = f" of at least {self.low}" if self.low else ""
        if self.low and self.high:
            bounds = f" from {self.low} to {self.high}"
        return words.get(self.kind, self.kind) + bounds

    def scalar(self, value: Any) -> str:
        """Return a number, integer or text as SQL.

        Raises:
          UsageError: if it is not of the kind, or out of bounds.

        >>> Parameter.parse("-- set keep: number 0..1 = 0.3  -- share to keep").scalar("3e-1")
        '0.3'
        """
        if self.kind == TEXT:
            return literal(str(value))
        text = "" if isinstance(value, bool) else str(value).strip()
        if self.kind == NUMBER and (value is None or text.lower() == "null"):
            if self.default == "null":
                return "NULL"
        elif _DECIMAL.fullmatch(text):
            number = Decimal(text)
            whole = number == number.to_integral_value()
            above = self.low is None or number >= Decimal(self.low)
            below = self.high is None or number <= Decimal(self.high)
            if above and below and (whole or self.kind == NUMBER):
                # DuckDB reads an exponent as a DOUBLE, to which a FLOAT compares otherwise.  In
                # parentheses: a minus before a minus begins a comment.
                plain = str(int(number)) if self.kind == INTEGER else f"{number:f}"
                return f"({plain})" if number < 0 else plain
        raise UsageError(f"parameter {self.name} must be a {self.expected}, got {value!r}")
