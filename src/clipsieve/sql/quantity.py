"""Thresholds that a predicate takes of the whole dataset: which value, of which rank, by group."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fractions import Fraction

import pyarrow as pa

from clipsieve.errors import UsageError
from clipsieve.sql.allowed import QUANTILE_OF, RANK_IN, TOP_FRACTION

#: Begins the names of columns that hold thresholds.
THRESHOLD = "__threshold_"
#: Types whose values have an order that is kept as bits, as DuckDB and as Arrow name them.
ORDERED_TYPES: Mapping[str, pa.DataType] = {
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
}
#: Digits that a fraction or rank may have before and after the point.
_DIGITS = 30


class Rule(StrEnum):
    """How the rank of a threshold follows from the number of values."""

    TOP_FRACTION = TOP_FRACTION
    RANK = RANK_IN
    QUANTILE = QUANTILE_OF


@dataclass(frozen=True, slots=True)
class Quantity:
    """A threshold that is computed of the whole dataset.

    Attributes:
      text: as it is written, for messages and tables.
      rule: how its rank follows from the number of values.
      value: expression whose values are ranked.
      argument: number of the rule, as written in decimal.
      group: expression whose values are the groups; None is one group of all.
      type: DuckDB's type of the values, one of `ORDERED_TYPES`.
    """

    text: str
    rule: Rule
    value: str
    argument: str
    group: str | None
    type: str

    def rank(self, rows: int) -> int:
        """Return the place of the threshold in descending order, from 1, among `rows` values.

        A place before the first is the first, one behind the last the last; 0 of no values.
        """
        if self.rule is Rule.TOP_FRACTION:  # in float64, as DataComp's code has it
            place = int(rows * float(self.argument)) + 1
        elif self.rule is Rule.RANK:
            place = int(exact_number(self.argument))
        else:
            ascending = max(1, -(-rows * exact_number(self.argument) // 1))
            place = rows - int(ascending) + 1
        return min(max(place, 1), rows)


def exact_number(text: str) -> Fraction:
    """Return a number as written in decimal.

    Raises:
      UsageError: if it has more than 30 digits on a side of the point.

    >>> exact_number("0.07") * 100 == 7
    True
    """
    try:
        number = Decimal(text)
        if (number and not -_DIGITS <= number.adjusted() <= _DIGITS) or len(text) > 2 * _DIGITS:
            raise ValueError(text)
        return Fraction(number)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise UsageError(
            f"{text[:80]} is no fraction or rank; write it with at most {_DIGITS} digits"
        ) from error
