"""From what the user named to work items: find the shards, learn their columns, cut them up."""

from collections.abc import Sequence
from dataclasses import dataclass

from clipsieve.read.inputs import find_inputs
from clipsieve.read.items import InputFormat, WorkItem
from clipsieve.read.names import refuse_collisions
from clipsieve.read.options import ReadOptions
from clipsieve.read.plan_folder import plan_folders
from clipsieve.read.plan_parquet import plan_parquet
from clipsieve.read.plan_tars import plan_tars
from clipsieve.read.shards import find_shards
from clipsieve.read.source import SourceConfig

__all__ = ["InputPlan", "ReadOptions", "plan_input"]


@dataclass(frozen=True)
class InputPlan:
    """A source ready to be read.

    Attributes:
      items: the work, sorted by source and row; every row of the source is in exactly one.
      source: what every reader must know.
      description: one line: what was found, and what was decided on the way.
    """

    items: tuple[WorkItem, ...]
    source: SourceConfig
    description: str


def plan_input(patterns: str | Sequence[str], options: ReadOptions | None = None) -> InputPlan:
    """Return the work items of everything that the patterns name.

    The same files give the same plan.  Parquet footers, the first samples of the first tars and
    the names in folders are read, nothing else.  A shard that cannot be read becomes an item with
    a `problem`; reading that item raises, the others go on.

    Args:
      patterns: paths, folders or fsspec URLs, with wildcards and braces; see `find_inputs`.
      options: see `ReadOptions`; None is the defaults.

    Raises:
      UsageError: nothing is there, formats are mixed or not the one asked for, columns are
        missing or contradict each other, names collide, or no shard at all can be read.
    """
    options = options or ReadOptions()
    shards = find_shards(find_inputs(patterns), options.input_format)
    match shards.format:
        case InputFormat.PARQUET:
            items, source, description = plan_parquet(shards, options)
        case InputFormat.WEBDATASET:
            items, source, description = plan_tars(shards, options)
        case InputFormat.FOLDER:
            items, source, description = plan_folders(shards, options)
    refuse_collisions([(item.shard, item.uri) for item in items])
    return InputPlan(tuple(items), source, "; ".join([description, *shards.notes]))
