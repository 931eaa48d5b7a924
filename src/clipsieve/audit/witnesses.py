"""The columns that speak for or against a row, and what of them is suspicious."""

from dataclasses import dataclass
from enum import StrEnum

from clipsieve.errors import UsageError

SIMILARITY = "clip_similarity"
#: Columns of k-distances begin with this, one for each size of the reference.
K_DISTANCE = "density_kdist"


class Ordinary(StrEnum):
    """How the tail of ordinary rows is known."""

    #: A normal distribution through the middle of the column: what lies far from it is suspicious
    #: however many rows do.
    CENTRE = "centre"
    #: The share of all rows: one row in a hundred is in the tail of a hundredth.
    RANK = "rank"


class SawData(StrEnum):
    """Whether the scoring model was trained on the rows that it scored."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Witness:
    """A numeric column of the dataset.

    Attributes:
      column: its name.
      is_high: whether high values are suspicious; else low ones.
      ordinary: how the tail of ordinary rows is known.
    """

    column: str
    is_high: bool = True
    ordinary: Ordinary = Ordinary.RANK

    @property
    def source(self) -> str:
        """Witnesses of one source see the same thing, and only the strongest of them counts."""
        return K_DISTANCE if self.column.startswith(K_DISTANCE) else self.column

    @property
    def is_density(self) -> bool:
        """Whether it is a k-distance."""
        return self.source == K_DISTANCE


#: A caption that does not fit its picture has a low similarity, whatever the picture shows; a
#: sparse neighbourhood is an ordinary property of many concepts.  Hence the two kinds of tail.
LOW_SIMILARITY = Witness(SIMILARITY, is_high=False, ordinary=Ordinary.CENTRE)


def parse_column(text: str) -> tuple[str, bool | None]:
    """Return name and direction of a column given as `NAME`, `NAME:high` or `NAME:low`.

    >>> parse_column("ood_knn"), parse_column("aesthetic:low")
    (('ood_knn', None), ('aesthetic', False))

    Raises:
      UsageError: if the direction is another word.
    """
    name, colon, direction = text.rpartition(":")
    if not colon:
        return text, None
    if direction not in ("high", "low"):
        raise UsageError(
            f"column {text!r} ends in {direction!r}; end it in :high or :low, which values are "
            "suspicious"
        )
    return name, direction == "high"


def recorded_direction(text: str | None) -> bool | None:
    """Whether high values are suspicious, by the `direction` of a score column; None if unclear.

    >>> recorded_direction("higher is more suspicious"), recorded_direction("higher is better")
    (True, False)
    """
    if text is None:
        return None
    good = ("better", "more confident", "more typical")
    bad = ("more suspicious", "more out of distribution", "more of a duplicate", "more often")
    for is_high, endings in ((False, good), (True, bad)):
        if any(ending in text for ending in endings):
            return is_high == text.startswith("higher")
    return None
