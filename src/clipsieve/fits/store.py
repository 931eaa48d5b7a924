"""Fits on disk: one folder each, `fits/<family>/fit=<id>/`.

    fit.json                      what it was made of: parameters, and the shards with their rows
    <reference>/<shard>.parquet   neighbour lists, for references that are the whole dataset
    fitted.npz                    the arrays; written last, so a folder that has it is complete

The id is a hash of everything that decides the arrays, so a fit that was interrupted is gone on
with, and one that was made before is found again.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow.parquet as pq

from clipsieve.errors import LedgerError
from clipsieve.neighbours.lists import NeighbourLists, lists_from_table
from clipsieve.scorers.base import Fitted, Scorer
from clipsieve.store.atomic import replacing, write_json
from clipsieve.store.canonical import short_hash
from clipsieve.store.layout import Layout
from clipsieve.stored import Member


def fit_meaning(scorer: Scorer, embeddings: str) -> str:
    """Short hash of what a fit of `scorer` means, whatever shards it was made of.

    Args:
      scorer: its parameters and version count.
      embeddings: revision of the embeddings it reads.
    """
    return short_hash(
        {
            "family": scorer.family,
            "version": scorer.version,
            "parameters": dict(scorer.parameters()),
            "embeddings": embeddings,
        }
    )


def fit_id(meaning: str, members: Sequence[Member]) -> str:
    """Short hash of a fit of this `meaning` made of these shards."""
    return short_hash([meaning, [[member.shard, *member.key] for member in members]])


def scored_rows(members: Sequence[Member]) -> int:
    """Rows in state `ok` of all members."""
    return sum(member.scored for member in members)


@dataclass(frozen=True, slots=True)
class FitFolder:
    """One fit of one family."""

    path: Path

    @classmethod
    def of(cls, layout: Layout, family: str, fit: str) -> "FitFolder":
        """The folder of fit `fit`."""
        return cls(layout.root / "fits" / family / f"fit={fit}")

    @property
    def is_complete(self) -> bool:
        """Whether all of it is there."""
        return (self.path / "fitted.npz").exists()

    def lists(self, reference: str, shard: str) -> Path:
        """The file with the neighbour lists of one shard."""
        return self.path / reference / f"{shard}.parquet"

    def clear(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def read_lists(self, reference: str, shard: str, k: int) -> NeighbourLists:
        """The neighbour lists of one shard, of k columns."""
        return lists_from_table(pq.read_table(self.lists(reference, shard), partitioning=None), k)

    def begin(self, scorer: Scorer, members: Sequence[Member]) -> None:
        """Write down what the fit is made of."""
        references = scorer.references(scored_rows(members))
        content = {
            "family": scorer.family,
            "parameters": dict(scorer.parameters()),
            "references": {name: asdict(wanted) for name, wanted in references.items()},
            "rows": sum(member.rows for member in members),
            "members": [asdict(member) for member in members],
        }
        write_json(self.path / "fit.json", content)

    def members(self) -> tuple[Member, ...]:
        """The shards it is made of, in the order in which their rows are numbered."""
        content = json.loads((self.path / "fit.json").read_text(encoding="utf-8"))
        return tuple(
            Member(**{**member, "key": tuple(member["key"])}) for member in content["members"]
        )

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays; the fit is complete then."""
        with replacing(self.path / "fitted.npz") as temporary, open(temporary, "wb") as file:
            named: dict[str, Any] = dict(sorted(arrays.items()))
            np.savez(file, **named)

    def load(self) -> Fitted:
        """The arrays.

        Raises:
          LedgerError: if they are missing or damaged.
        """
        path = self.path / "fitted.npz"
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise LedgerError(
                f"{path} is missing or damaged ({error}); make it again with "
                f"`clipsieve score OUT --scorers {self.path.parent.name} --refit`"
            ) from error
