"""Descriptions of fits: what a scorer learnt from, beside the arrays that it learnt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipsieve.store import names
from clipsieve.store.documents import read_document
from clipsieve.store.folder import OutputFolder
from clipsieve.store.members import ShardRange
from clipsieve.store.validation import Hash, ScorerName


@dataclass(frozen=True, slots=True)
class FitDescription:
    """What a scorer learnt from.

    Attributes:
      scorer: its name.
      parameters: those that it was fitted with.
      neighbours: id of each set of neighbour lists it read.
      learned_on: output folder whose rows it learnt from; None is its own.
      members: the shards.
    """

    scorer: ScorerName
    parameters: Mapping[str, Any]
    neighbours: Mapping[Hash, Hash]
    learned_on: str | None
    members: tuple[ShardRange, ...]


def read_fit_description(folder: OutputFolder, scorer: str, identifier: str) -> FitDescription:
    """Return the description of a fit.

    Raises:
      LedgerError: if it is damaged.
      FileNotFoundError: if there is none.
    """
    description: FitDescription = read_document(
        folder,
        names.fit_description(scorer, identifier),
        FitDescription,
        f"fit it again: clipsieve score {folder.root} --scorers {scorer} --refit",
    )
    return description
