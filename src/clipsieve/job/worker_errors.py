"""The error that ended a worker on another machine, as an object in the output folder.

Engines hand exceptions on as they like: as the exception, as the text of a traceback, or not at
all.  So the worker leaves what it raises beside the run's markers, and the driver raises that.
"""

import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from clipsieve import errors
from clipsieve.errors import ClipsieveError, StorageError
from clipsieve.job.attempts import attempts_folder, worker_name
from clipsieve.store.folder import OutputFolder

_PREFIX, _ENDING = "error-", ".json"


def leave_error(
    folder: OutputFolder, run_id: str, error: Exception, shards: tuple[str, ...]
) -> None:
    """Leave what a worker raises, if the folder can be written to.

    Args:
      folder: the output folder.
      run_id: of the run.
      error: what it raises.
      shards: those it has in hand.
    """
    content = {
        "kind": type(error).__name__,
        "is_own": isinstance(error, ClipsieveError),
        "message": str(error),
        "place": _place(error),
        "worker": worker_name(),
        "shards": list(shards),
    }
    with suppress(StorageError):
        name = f"{attempts_folder(run_id)}/{_PREFIX}{uuid4().hex}{_ENDING}"
        folder.write_json(name, content, durable=False)


def left_error(folder: OutputFolder, run_id: str) -> ClipsieveError | None:
    """Return the error that a worker has left, naming the worker; None if none has."""
    place = attempts_folder(run_id)
    for name in folder.files.list_files(place):
        if name.startswith(_PREFIX) and name.endswith(_ENDING):
            with suppress(FileNotFoundError, ValueError, KeyError):
                return _error(folder.read_json(f"{place}/{name}"))
    return None


def _error(content: Mapping[str, Any]) -> ClipsieveError:
    message, worker = content["message"], content["worker"]
    if content["is_own"]:
        error: ClipsieveError = getattr(errors, content["kind"], ClipsieveError)(
            f"worker {worker}: {message}"
        )
        return error
    shards = content["shards"]
    in_hand = f" with shard {', '.join(shards)} in hand" if shards else ""
    line = " ".join(message.split())
    return ClipsieveError(
        f"worker {worker}{in_hand}: {content['kind']}: {line} (raised at {content['place']})"
    )


def _place(error: Exception) -> str:
    """Return file, line and function where an exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    last = frames[-1]
    return f"{last.filename}:{last.lineno} in {last.name}"
