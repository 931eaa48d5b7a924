"""Every error clipsieve raises on purpose, and the exit code each ends a command with.

    ClipsieveError            1
    ├── UsageError            2   a wrong argument, or an output folder that holds something else
    │   ├── NoInput           2   no input matches; it may come later
    │   ├── NothingScored     2   not one row could be scored; shards that come may have some
    │   ├── WeightsMissing    2   a model that is not on this machine
    │   └── QueryError        2   a query that DuckDB refuses
    ├── DeviceError           2   a device that was asked for, or is present, but cannot be used
    ├── ShardError            3   one input shard could not be read; other shards go on
    ├── LedgerError           1   rows are missing, doubled or out of line in an output folder
    ├── StorageError          1   the system refuses to read or write a file
    ├── EngineError           1   the engine that runs the pipelines fails, or cannot be reached
    │   └── WorkersLost       1   workers died under a pipeline; what they committed is kept
    └── Locked               75   another run holds the output folder

Each message gives the value, the place and the cure, in that order.  Rows never raise: a bad
image or caption becomes a row state (`clipsieve.schemas.states`).
"""


class ClipsieveError(Exception):
    """Base of all errors below; catch it to catch everything clipsieve reports.

    Attributes:
      exit_code: with which it ends a command.
      is_reported: whether its message is on standard error already, as an event.
    """

    exit_code = 1
    is_reported = False


class UsageError(ClipsieveError):
    """The command or call cannot be carried out as given; nothing was written."""

    exit_code = 2


class NoInput(UsageError):
    """No input matches a pattern, or a folder holds none."""


class NothingScored(UsageError):
    """Not one row of an output folder could be scored; its ledger says why, row by row."""


class WeightsMissing(UsageError):
    """Model weights are not on this machine and could not be fetched."""


class QueryError(UsageError):
    """DuckDB refuses a query, or it fails on the way; the message has DuckDB's lines."""


class DeviceError(ClipsieveError):
    """The device is missing, unusable or too small for even one row."""

    exit_code = 2


class ShardError(ClipsieveError):
    """One shard cannot be read; its message says which and why."""

    exit_code = 3


class LedgerError(ClipsieveError):
    """Output tables contradict each other or their source."""


class StorageError(ClipsieveError):
    """The system refuses to read or write a file; what was complete before is kept."""


class EngineError(ClipsieveError):
    """The engine that runs the pipelines fails or cannot be reached; what was committed is kept."""


class WorkersLost(EngineError):
    """A pipeline ended because workers died; it can be run again for what is left."""


class Locked(ClipsieveError):
    """Another process is writing to this output folder; try again later."""

    exit_code = 75
