"""Reconcile a folder: verify every file, and prove that every input row is accounted for."""

from dataclasses import dataclass

from clipsieve.errors import ClipsieveError
from clipsieve.formats.registry import count_rows
from clipsieve.job.inputs import recorded_items
from clipsieve.store.folder import OutputFolder
from clipsieve.store.integrity import check_files, damaged, save_checks, with_replaced
from clipsieve.store.manifest import Manifest
from clipsieve.store.reconcile import ShardAccount, reconcile


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a folder holds.

    Attributes:
      manifest: what it says of itself.
      accounts: of shards, subsets and damaged files; those with problems say which.
      files: how many files were verified.
      note: why the next run cannot be told of damage; "" if it can.
    """

    manifest: Manifest
    accounts: tuple[ShardAccount, ...]
    files: int
    note: str = ""


def reconcile_folder(out: str, quick: bool = False) -> Reconciled:
    """Verify the files of an output folder and compare its ledger with the sources.

    What is damaged is noted in the folder, so that the next `run` makes it again.

    Args:
      out: the output folder.
      quick: read only files whose size or time has changed since they were last verified.

    Raises:
      UsageError: if the folder holds no dataset, or its `dataset.json` is damaged.
    """
    folder = OutputFolder.open(out)
    manifest = folder.require_manifest()
    checks = with_replaced(folder, check_files(folder, known=None if quick else {}))
    damage = damaged(checks)
    accounts = tuple(reconcile(folder, manifest, recorded_items(manifest), count_rows, damage))
    note = ""
    try:
        save_checks(folder, checks)
    except (OSError, ClipsieveError) as error:
        note = f"the next `clipsieve run` is not told of damage: {error}"
    return Reconciled(manifest, accounts, len(checks), note)
