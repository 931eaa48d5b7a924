"""Which folder scorers learn of: that of their scores, or another of the same model."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from clipsieve.errors import UsageError
from clipsieve.scorers.base import Scorer
from clipsieve.scorers.columns import scorer_revision
from clipsieve.scoring.learn import Basis
from clipsieve.store import names
from clipsieve.store.fits import read_fit_description
from clipsieve.store.folder import OutputFolder
from clipsieve.store.manifest import ScorerEntry
from clipsieve.store.members import ShardRange, read_members


class LearningFolders:
    """The folders that the scorers of one output folder learn of."""

    def __init__(
        self,
        folder: OutputFolder,
        basis: Basis,
        members: tuple[ShardRange, ...],
        learn_on: str | None,
        asked: tuple[str, ...],
    ) -> None:
        """Look at the folder that is named.

        Args:
          folder: of the scores.
          basis: its model and embeddings.
          members: its shards.
          learn_on: folder, absolute, that the scorers of `asked` learn of; None is as before.
          asked: names of the scorers that the user asked for.

        Raises:
          UsageError: if `learn_on` cannot be learnt of.
        """
        self._folder, self._basis = folder, basis
        self._learn_on, self._asked = learn_on, asked
        self._members = {folder.root: members}
        if learn_on is not None:
            self.members(learn_on)

    def source(self, scorer: Scorer, recorded: ScorerEntry | None) -> str | None:
        """Return the folder that a scorer learns of; None is the folder itself.

        Raises:
          UsageError: for another folder, and a scorer that reads neighbour lists among all rows.
        """
        source = recorded.learned_on if recorded is not None else None
        if self._learn_on is not None and scorer.name in self._asked:
            source = self._learn_on if self._learn_on != self._folder.root else None
        if source is not None and scorer.neighbour_lists():
            raise UsageError(
                f"scorer {scorer.name} reads the neighbours of each row among all rows of its own "
                "folder and cannot learn on another; give it a sample as reference, or leave it out"
            )
        return source

    def members(self, source: str | None) -> tuple[ShardRange, ...]:
        """Return the shards of a folder that is learnt of; None is that of the scores.

        Raises:
          UsageError: if it holds no dataset, no shard, or the embeddings of another model.
        """
        source = source or self._folder.root
        if source not in self._members:
            folder = OutputFolder.open(source)
            manifest = folder.load_manifest()
            if manifest is None:
                raise UsageError(
                    f"{source} holds no clipsieve dataset (no dataset.json) to learn on; name the "
                    "OUT folder of another `clipsieve run` with --learn-on, or "
                    f"{self._folder.root} for the folder itself"
                )
            if manifest.embeddings != self._basis.embeddings:
                model = manifest.model.model if manifest.model is not None else "no model"
                theirs = manifest.embeddings.revision if manifest.embeddings is not None else "none"
                raise UsageError(
                    f"{source} holds embeddings of {model} (revision {theirs}) and "
                    f"{self._folder.root} of {self._basis.model.model} (revision "
                    f"{self._basis.embeddings.revision}); learn on a folder of the same model"
                )
            members = read_members(folder)
            if not members:
                raise UsageError(f"{source} holds no shard yet; run `clipsieve run` first")
            self._members[source] = members
        return self._members[source]

    def taken(
        self, scorer: Scorer, basis: str, options: Mapping[str, Any], source: str
    ) -> ScorerEntry | None:
        """Return what a scorer has learnt in the folder `source`, if it is what is asked for here.

        It is copied, so that both folders have the same scores, revision and all.
        """
        self.members(source)
        there = OutputFolder.open(source)
        recorded = there.require_manifest().scorers().get(scorer.name)
        if recorded is None or recorded.learned is None or recorded.basis != basis:
            return None
        learned = recorded.learned
        name, description = (
            names.fit(scorer.name, learned),
            names.fit_description(scorer.name, learned),
        )
        if not (there.files.exists(name) and there.files.exists(description)):
            return None
        described = read_fit_description(there, scorer.name, learned)
        self._folder.write_json(description, asdict(replace(described, learned_on=source)))
        self._folder.write_arrays(name, there.read_arrays(name))
        revision = scorer_revision(basis, learned, {})
        return ScorerEntry(revision, options, learned, basis, {}, source)
