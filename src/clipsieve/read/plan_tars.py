"""Work items of webdataset tars: one a tar; the columns are those of the first samples."""

from collections.abc import Sequence
from itertools import islice

from clipsieve.errors import UsageError
from clipsieve.read.items import InputFormat, WorkItem
from clipsieve.read.names import shard_name
from clipsieve.read.options import ReadOptions
from clipsieve.read.plan_parquet import problems_note, renamed_note
from clipsieve.read.sample_columns import sample_columns
from clipsieve.read.samples import TEXT_FILE, Sample
from clipsieve.read.shards import Shard, Shards
from clipsieve.read.sniff import PICTURES
from clipsieve.read.source import SourceConfig
from clipsieve.read.tar_samples import tar_samples

_SAMPLES = 100  # from each of the first tars: enough to meet the rarer fields
_TARS = 3


def plan_tars(found: Shards, options: ReadOptions) -> tuple[list[WorkItem], SourceConfig, str]:
    """Return the items, the source and its description.

    Raises:
      UsageError: a named column is missing, there are no captions, or nothing can be read.
    """
    shards = found.shards
    samples, place = _first_samples(shards)
    seen = dict.fromkeys(extension for sample in samples for extension in sample.extensions)
    image = None if options.image_col is None else options.image_col.lower().lstrip(".")
    if image is not None and image not in seen:
        raise UsageError(
            f"image_col {options.image_col!r} is not the extension of a member of {place}; its "
            f"members are {', '.join(seen)}"
        )
    pictures = [extension for extension in seen if extension in PICTURES]
    if image is None and not pictures:
        raise UsageError(
            f"no pictures in {place}: its members are {', '.join(seen)}; name the extension of "
            "the pictures with image_col"
        )
    columns = sample_columns(
        samples,
        place,
        InputFormat.WEBDATASET,
        caption=options.caption_col,
        uid=options.uid_col,
        references=options.references_col,
    )
    img2dataset = columns.fields.keys() >= {"url", "status"}
    source = SourceConfig(
        format=InputFormat.WEBDATASET,
        flavour="img2dataset" if img2dataset else "webdataset",
        image=image,
        caption=columns.caption,
        uid=columns.uid,
        references=options.references_col,
        left_out=(),
        carried=columns.carried.schema,
        origins=columns.carried.origins,
        uid_type=columns.uid_type,
        byte_budget=options.byte_budget,
    )
    items = [
        WorkItem(
            shard=options.shard_prefix + shard_name(shard.relative),
            uri=shard.uri,
            format=InputFormat.WEBDATASET,
            start=0,
            row_groups=None,
            fingerprint=shard.fingerprint,
            problem=shard.problem,
        )
        for shard in shards
    ]
    known = {*PICTURES, TEXT_FILE, "json", image}
    others = [extension for extension in seen if extension not in known]
    parts = [
        "img2dataset webdataset" if img2dataset else "webdataset",
        f"{len(shards):,} shard{'' if len(shards) == 1 else 's'}",
        "rows counted on reading",
        f"image members {image or '|'.join(pictures)}",
        caption_words(columns.caption),
        "no uid" if columns.uid is None else f"uid from {columns.uid}",
    ]
    text = ", ".join(parts)
    if others:
        text += f"; members not read: {', '.join(others)}"
    return items, source, text + renamed_note(columns.carried) + problems_note(items)


def caption_words(caption: str | None) -> str:
    """Return where captions come from, in words."""
    if caption is None:
        return "no captions"
    return "captions from txt" if caption == TEXT_FILE else f"captions from field {caption}"


def _first_samples(shards: Sequence[Shard]) -> tuple[list[Sample], str]:
    """Return samples of the first tars that have any, without images, and the first such tar."""
    samples: list[Sample] = []
    places: list[str] = []
    problems = []
    for shard in shards:
        before = len(samples)
        try:
            if shard.problem is None:
                for sample in islice(tar_samples(shard.uri, None), _SAMPLES):
                    sample.image = None
                    samples.append(sample)
        except Exception as error:  # reading the shard will raise; what came before it counts
            problems.append(f"{shard.uri}: {error}")
        if len(samples) > before:
            places.append(shard.uri)
        if len(places) == _TARS:
            break
    if not places:
        first = problems[0] if problems else f"{shards[0].uri} has no members"
        raise UsageError(
            f"none of the {len(shards):,} tars has a sample that can be read, first {first}; "
            "replace the files or check the path"
        )
    return samples, places[0]
