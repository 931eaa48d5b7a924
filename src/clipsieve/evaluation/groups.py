"""Measures of the groups of a dataset, as sums that are merged over batches and shards."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from clipsieve.evaluation.dataset import CalibrationState, MaNoState
from clipsieve.evaluation.selective import aurc

#: Groups that a table of measures may have.
MOST_GROUPS = 10_000


@dataclass(frozen=True, slots=True)
class GroupState:
    """Rows of one group; adding two merges them.

    Attributes:
      mano: of rows with an image embedding.
      missing: rows without one.
      calibration: of rows with a label that is a class.
      unlabelled: rows with an embedding and no label.
      unknown: rows with a label that is no class.
      example: the first of such labels, in the order of text.
      confidence: arrays of float64, of rows with a label that is a class.
      correct: arrays of bool, likewise.
    """

    mano: MaNoState
    missing: int
    calibration: CalibrationState
    unlabelled: int = 0
    unknown: int = 0
    example: str | None = None
    confidence: tuple[np.ndarray, ...] = ()
    correct: tuple[np.ndarray, ...] = ()

    def __add__(self, other: "GroupState") -> "GroupState":
        """Return the state of the rows of both."""
        examples = [text for text in (self.example, other.example) if text is not None]
        return GroupState(
            self.mano + other.mano,
            self.missing + other.missing,
            self.calibration + other.calibration,
            self.unlabelled + other.unlabelled,
            self.unknown + other.unknown,
            min(examples, default=None),
            self.confidence + other.confidence,
            self.correct + other.correct,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the measures of the group; None where they have no rows."""
        mano = self.mano.result()
        values: dict[str, Any] = {
            "rows": self.mano.rows,
            "missing_rows": self.missing,
            "mano": None,
            "mano_branch": None,
            "mano_softmax": None,
            "mano_taylor": None,
            "mano_criterion": None,
            "mano_divergence": None,
        }
        if mano is not None:
            named = {f"mano_{name}": value for name, value in asdict(mano).items()}
            values |= {"mano": named.pop("mano_value"), **named}
        labelled = self.calibration.labelled
        area = None
        if labelled:
            area = aurc(np.concatenate(self.confidence), np.concatenate(self.correct))
        return values | {
            "labelled_rows": labelled,
            "unlabelled_rows": self.unlabelled,
            "unknown_labels": self.unknown,
            "unknown_example": self.example,
            "accuracy": self.calibration.accuracy(),
            "ece": self.calibration.error(),
            "aurc": area,
        }


@dataclass(frozen=True, slots=True)
class GroupStates:
    """States by group; adding two merges the rows of both.

    Attributes:
      states: by name of the group; None is that of rows without one.
      is_full: whether there are more than `MOST_GROUPS`; there are no states then.
    """

    states: Mapping[str | None, GroupState] = field(default_factory=dict)
    is_full: bool = False

    def __add__(self, other: "GroupStates") -> "GroupStates":
        """Return the states of the rows of both."""
        if self.is_full or other.is_full:
            return GroupStates(is_full=True)
        merged = dict(self.states)
        for name, state in other.states.items():
            merged[name] = merged[name] + state if name in merged else state
        if len(merged) > MOST_GROUPS:
            return GroupStates(is_full=True)
        return GroupStates(merged)
