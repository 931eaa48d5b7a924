"""Room on the disk of the output folder, looked at before the work and not at its end."""

from pathlib import Path

from clipsieve.embed.room import least_bytes, usual_bytes
from clipsieve.errors import StorageError
from clipsieve.job.plan import Plan
from clipsieve.store.folder import OutputFolder
from clipsieve.store.storage_errors import byte_count


def check_room(folder: OutputFolder, plan: Plan) -> str:
    """Refuse a run whose output cannot fit; of one that may not fit, return a line that says so.

    Raises:
      StorageError: if even the least that it must write does not fit.
    """
    free = folder.files.free_bytes()
    if free is None or plan.stage is None or not plan.todo:
        return ""
    dim, rows = plan.stage.model.dim, plan.total_rows or 0
    least = least_bytes(rows, dim, len(plan.todo))
    place = Path(folder.root)
    if free < least:
        raise StorageError(
            f"output folder {place} has room for {byte_count(free)}, {rows:,} rows in "
            f"{len(plan.todo)} shards need at least {byte_count(least)}; free space on that disk, "
            "then run the same command again, or choose another output folder"
        )
    usual = usual_bytes(rows, dim, len(plan.todo))
    if free < usual:
        return (
            f"room may run out: about {byte_count(usual)} will be written to {place}, "
            f"{byte_count(free)} are free"
        )
    return ""
