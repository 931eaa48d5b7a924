"""The inputs of a run and of a folder, without anything that loads a model."""

import os
from collections.abc import Sequence

from clipsieve.errors import UsageError
from clipsieve.formats.base import InputPlan, ReadOptions, WorkItem
from clipsieve.formats.names import ESCAPED, path_uri, uri_path
from clipsieve.formats.registry import plan_input
from clipsieve.settings import RunConfig
from clipsieve.store.manifest import InputEntry, Manifest
from clipsieve.store.validation import decode


def read_options(config: RunConfig) -> ReadOptions:
    """Return the part of the settings that decides how shards are read and named."""
    return ReadOptions(
        input_format=config.input_format,
        image_col=config.image_col,
        caption_col=config.caption_col,
        uid_col=config.uid_col,
        references_col=config.references_col,
        byte_budget=config.byte_budget,
        max_caption_bytes=config.max_caption_bytes,
        max_image_bytes=config.max_image_bytes,
        leave_out=config.leave_out,
        rows_per_item=config.rows_per_item,
        shard_prefix=config.shard_prefix,
    )


def absolute_pattern(pattern: str) -> str:
    """Return a pattern that means the same from any directory, as the manifest has it."""
    if "://" in pattern and not pattern.startswith(ESCAPED):
        return pattern
    return path_uri(os.path.abspath(os.path.expanduser(uri_path(pattern))))


def recorded_items(manifest: Manifest) -> Sequence[WorkItem]:
    """Return the items of everything that was ever read into a folder, as its inputs are now.

    Inputs that match nothing any more have no items; what they left in the ledger is found there.
    """
    items: dict[tuple[str, str], WorkItem] = {}
    for plan in recorded_plans(manifest):
        items |= {(item.shard, item.uri): item for item in plan.items}
    return list(items.values())


def recorded_plans(manifest: Manifest) -> Sequence[InputPlan]:
    """Return the plan of each of a folder's inputs, as it is now; without those that are gone.

    Raises:
      UsageError: if options of an input are none of clipsieve's.
    """
    plans = []
    for entry in manifest.inputs:
        options = _options(entry)
        try:
            plans.append(plan_input(entry.patterns, options))
        except UsageError:
            continue
    return plans


def _options(entry: InputEntry) -> ReadOptions:
    """Return how an input was read."""
    try:
        options: ReadOptions = decode(ReadOptions, entry.options, "options of an input")
    except ValueError as error:
        raise UsageError(
            f"dataset.json is damaged ({error}); restore it from a copy, or choose another output "
            "folder"
        ) from error
    return options
