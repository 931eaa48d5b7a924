"""Lines of `--log-format json` and the result file: one object each, of one schema.

Every event has `time` (seconds since the epoch), `event`, `run_id` (null before the run is named)
and `text`, which is what is shown without JSON; some have fields of their own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "number", "minimum": 0}
STATES: Schema = {"type": "object", "additionalProperties": COUNT}
EXIT_CODE: Schema = {"enum": [0, 1, 2, 3, 4, 75, 130, 143]}


def optional(schema: Schema) -> Schema:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def listed(schema: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": schema}


def record(**fields: Schema) -> Schema:
    """Return the schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": sorted(fields),
        "additionalProperties": False,
    }


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of line.

    Attributes:
      doc: when it comes, in a line.
      fields: its own fields; all are always there.
    """

    doc: str
    fields: Mapping[str, Schema] = field(default_factory=dict)


CHECKS = listed(record(check=TEXT, failed={"type": "boolean"}, rows=COUNT, detail=TEXT))
_OUTCOME = {"command": TEXT, "exit_code": EXIT_CODE}
#: How `run` and `embed` ended; `part` has the same fields.
RUN = {
    "out": TEXT,
    "planned": COUNT,
    "skipped": COUNT,
    "done": COUNT,
    "failed": listed(record(shard=TEXT, uri=TEXT, error=optional(TEXT))),
    "left": COUNT,
    "unscored": COUNT,
    "counts": STATES,
    "new_counts": STATES,
    "stopped": optional(TEXT),
    "seconds": SECONDS,
    "encode_seconds": SECONDS,
    "findings": TEXT,
    "ood": TEXT,
    "damaged": listed(TEXT),
    "checks": CHECKS,
    **_OUTCOME,
}
#: How `score` ended.
SCORE = {"done": COUNT, "left": COUNT, "checks": CHECKS, **_OUTCOME}

#: How `ingest` ended.
INGEST = {
    "shards": TEXT,
    "list_hash": TEXT,
    **dict.fromkeys(("planned", "done", "left", "rows", "new_rows"), COUNT),
    **dict.fromkeys(("successes", "failed_to_download", "failed_to_resize"), COUNT),
    "reasons": STATES,
    "stopped": optional(TEXT),
    "seconds": SECONDS,
    **_OUTCOME,
}

#: By name, in about the order in which they come.  `result` is of `run` and `embed`, of `score`, or
#: of `ingest`.
EVENTS: Mapping[str, Event] = {
    "input": Event("what was recognised in the input"),
    "model": Event("a note on the model, its number format or the device"),
    "left_out": Event("scorers that need more classes than are given"),
    "kept": Event("scores that are left as they are"),
    "damaged": Event("a damaged file, and what becomes of it", {"file": TEXT}),
    "plan": Event("what there is to do", {"planned": COUNT, "todo": COUNT}),
    "room": Event("the disk may become full"),
    "progress": Event(
        "every ten seconds of a long stage",
        {
            "total_rows": optional(COUNT),
            "rows": COUNT,
            "failed_rows": COUNT,
            "shards": COUNT,
            "failed_shards": COUNT,
            "seconds": {"type": "object", "additionalProperties": SECONDS},
        },
    ),
    "prompts": Event("texts of classes are encoded"),
    "cut": Event("texts of classes that are longer than what the model reads"),
    "cache": Event("encoded texts cannot be kept for other folders"),
    "classes": Event("classes of ood scores", {"prompts": TEXT}),
    "fit": Event("a scorer has learnt", {"fit": optional(TEXT), "basis": optional(TEXT)}),
    "reference": Event(
        "new shards are scored by what a scorer learnt of other rows before",
        {"scorer": TEXT, "since": optional(TEXT), "learned_rows": COUNT, "shards": COUNT},
    ),
    "failed": Event("a shard that could not be scored", {"shard": TEXT}),
    "forget": Event("a shard whose source is gone"),
    "watch": Event("when `watch` looks again, and why", {"wait_seconds": SECONDS}),
    "part": Event("how the last of several parts ended, before the whole is finished", RUN),
    "result": Event("how the command ended; the last event"),
    "error": Event("why the command failed; the last event", {**_OUTCOME, "error": TEXT}),
}
_RESULTS = (RUN, SCORE, INGEST)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one line; a result file has all but `text`."""
    kinds = []
    for name, event in EVENTS.items():
        for fields in _RESULTS if name == "result" else (event.fields,):
            common: dict[str, Schema] = {
                "time": SECONDS,
                "event": {"const": name},
                "run_id": optional(TEXT),
            }
            kind = dict(record(**common, **fields))
            kind["properties"] = {**kind["properties"], "text": TEXT}
            kinds.append({"title": name, "description": event.doc, **kind})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "clipsieve events",
        "oneOf": kinds,
    }


def schema_text() -> str:
    """Return the text of docs/events.schema.json."""
    return json.dumps(json_schema(), indent=1) + "\n"


def events_page() -> str:
    """Return the text of docs/events.md."""
    lines = [
        "# Events",
        "",
        "Generated from `schemas/events.py` by `make settings-page`.",
        "",
        "With `--log-format json` every line on standard error is one JSON object. All have `time`",
        "(seconds since the epoch), `event`, `run_id` (null before the run is named) and `text`,",
        "which is what is shown without JSON. The [JSON Schema](events.schema.json) says the rest.",
        "The last event of a command is `result` or `error`; `--result-file` holds the same object",
        "without `text`.",
        "",
        "| event | when | fields of its own |",
        "|---|---|---|",
    ]
    for name, event in EVENTS.items():
        fields = _RESULTS if name == "result" else (event.fields,)
        kinds = " or ".join(", ".join(f"`{field}`" for field in part) for part in fields)
        lines.append(f"| `{name}` | {event.doc} | {kinds} |")
    return "\n".join(lines) + "\n"
