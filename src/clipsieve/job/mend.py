"""What a job does about damaged files of its output folder: moves aside what it makes again.

Scores are made again from embeddings, embeddings from the source, the wide table from scores, what
was learnt from the shards that it was learnt of.  Each is moved aside just before the stage that
makes it again, so that a stopped job leaves no holes.  What a job does not make again stays where
it is, and the user is told of the command that does.
"""

from collections.abc import Collection, Mapping

from clipsieve.control import Control
from clipsieve.errors import LedgerError
from clipsieve.job.reporter import Reporter
from clipsieve.scorers.registry import EMBEDDED
from clipsieve.store import names
from clipsieve.store.cures import cure
from clipsieve.store.folder import OutputFolder
from clipsieve.store.frozen import frozen
from clipsieve.store.integrity import (
    add_checks,
    check_files,
    damaged,
    drop_replaced,
    move_aside,
    save_checks,
    sealed_files,
)
from clipsieve.store.manifest import Manifest
from clipsieve.store.seal import Seal

#: Folders of what is computed before family files are written, and of those.
_OF_SCORES = ("prompts", "neighbours", "fits", "scores")


def restore_manifest(folder: OutputFolder, reporter: Reporter) -> None:
    """Replace a damaged or missing `dataset.json` by its copy, and say so; the lock is held.

    Raises:
      UsageError: if the copy is damaged too.
    """
    if folder.restore_manifest():
        text = f"damaged: {names.MANIFEST}; restored from its copy"
        reporter.report("damaged", text, file=names.MANIFEST)


def find_damage(
    folder: OutputFolder, control: Control | None = None, keep: bool = True
) -> dict[str, str]:
    """Return what is wrong with each damaged file, by name; reads what changed since last time.

    In an object store it tells what a `reconcile` has found, and reads nothing: a store verifies
    what it takes and gives, and keeps no halves.

    Args:
      folder: the output folder.
      control: ends the reading when the job is stopped.
      keep: whether to keep what was found for the next time; the lock is held then.
    """

    def is_stopped() -> bool:
        return control is not None and control.stopped

    checks = check_files(folder, is_stopped=is_stopped, reads=not folder.files.is_remote)
    if keep and checks and not is_stopped():
        save_checks(folder, checks)
    return damaged(checks)


class Mending:
    """The damaged files of one folder during one job, which holds the folder's lock.

    Attributes:
      left: names of the files that are still in their places.
    """

    def __init__(
        self,
        folder: OutputFolder,
        manifest: Manifest | None,
        damage: Mapping[str, str],
        reporter: Reporter,
    ) -> None:
        """Look at the damage.

        Args:
          folder: the output folder.
          manifest: what it holds.
          damage: what is wrong with each damaged file, by name.
          reporter: told of every file.

        Raises:
          LedgerError: if a removal list is damaged: without it, rows that it names would come back.
        """
        self._folder, self._reporter = folder, reporter
        self._damage = dict(damage)
        for name, problem in damage.items():
            if name.startswith(f"{names.REMOVALS}/") and "/rev=" not in name:
                raise LedgerError(
                    f"{folder.files.url(name)} is damaged: {problem}; {cure(folder.root, name)}"
                )
        for name in damage:
            if manifest is not None and not _is_active(manifest, name):
                folder.files.delete(name)
                self._report(name, "of a revision that is not in use; removed")
            elif name.startswith(f"{names.RUNS}/") or name.startswith(f"{names.SQL}/"):
                self._move(name)

    @property
    def left(self) -> tuple[str, ...]:
        """Names of the files that are still in their places."""
        return tuple(self._damage)

    def begin_shards(self, manifest: Manifest | None, shards: Collection[str]) -> None:
        """Move aside the files of shards that are embedded again."""
        for name in self.left:
            if shard_of(manifest, name) in shards:
                self._move(name)

    def begin_scores(self, manifest: Manifest) -> None:
        """Move aside scores from storage, and what they are computed with."""
        for name in self.left:
            if name.startswith(_OF_SCORES) and shard_of(manifest, name) is None:
                self._move(name)

    def begin_wide(self, audits: bool = True) -> None:
        """Move aside what is glued of scores, and with `audits` what is found in them."""
        tops = (names.WIDE, f"{names.REMOVALS}/rev=", *([names.AUDITS] if audits else []))
        for name in self.left:
            if name.startswith(tops):
                self._move(name)

    def report_left(self) -> None:
        """Report each file that is left, and what makes it again."""
        for name in self.left:
            self._reporter.report(
                "damaged",
                f"still damaged: {name}: {self._damage[name]}; {cure(self._folder.root, name)}",
                file=name,
            )

    def _move(self, name: str) -> None:
        move_aside(self._folder, name)
        is_history = names.is_history(name)
        self._report(name, "moved aside; nothing depends on it" if is_history else "made again")

    def _report(self, name: str, outcome: str) -> None:
        _report(self._reporter, name, self._damage.pop(name), outcome)


def mend_subset(folder: OutputFolder, subset: str, reporter: Reporter) -> None:
    """Move aside the damaged files of a subset that is about to be made; the lock is held."""
    damage = damaged(check_files(folder, below=f"{names.SUBSETS}/{subset}"))
    for name, problem in damage.items():
        move_aside(folder, name)
        _report(reporter, name, problem, "made again")


def shard_of(manifest: Manifest | None, name: str) -> str | None:
    """Return the shard that must be embedded again for a file; None for other files."""
    if manifest is None or manifest.embeddings is None:
        return None
    folder, _, file = name.rpartition("/")
    entry = manifest.embeddings
    embedded = manifest.families.get(EMBEDDED)
    folders = {names.SAMPLES, names.embeddings_folder(entry.model, entry.revision)}
    if embedded is not None:
        folders.add(names.family_folder(EMBEDDED, embedded.revision))
    return file.removesuffix(".parquet") if folder in folders else None


def save_verification(
    folder: OutputFolder, written: Mapping[str, Seal], is_stopped: bool = False
) -> None:
    """Remove damaged files that were made again, and keep what is known of all files.

    Args:
      folder: the output folder; the caller holds its lock.
      written: seals of files that this job wrote: those are not read again.
      is_stopped: whether to read no other files either.
    """
    looked_at = frozen(folder)
    drop_replaced(looked_at)
    if is_stopped:
        add_checks(folder, written)
    else:
        checks = check_files(looked_at, written=written, reads=not folder.files.is_remote)
        save_checks(folder, checks)
    folder.save_footers(sealed_files(looked_at))


def _report(reporter: Reporter, name: str, problem: str, outcome: str) -> None:
    """Report a damaged file and what became of it."""
    reporter.report("damaged", f"damaged: {name}: {problem}; {outcome}", file=name)


def _is_active(manifest: Manifest, name: str) -> bool:
    """Whether something reads a file: it is not of a revision that another one has replaced."""
    parts = name.split("/")
    top = parts[0]
    entry = manifest.embeddings
    if top == "embeddings" and entry is not None:
        return name.startswith(names.embeddings_folder(entry.model, entry.revision) + "/")
    if top == "scores":
        family = manifest.families.get(parts[1])
        return family is not None and parts[2] == f"rev={family.revision}"
    if top == names.WIDE:
        return manifest.wide is not None and parts[1] == f"build={manifest.wide.build}"
    if top == "fits":
        recorded = manifest.scorers().get(parts[1])
        return recorded is not None and parts[2].partition(".")[0] == recorded.learned
    if top == "neighbours":
        ids = (i for each in manifest.scorers().values() for i in each.neighbours.values())
        return parts[1] in set(ids)
    return True
