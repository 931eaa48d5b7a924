"""The pages and the schema of events are those of the definitions."""

import json
from pathlib import Path

import jsonschema
import pytest

from clipsieve.schemas.events import EVENTS, events_page, json_schema, schema_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCHEMA = jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize(
    ("name", "text"), [("events.md", events_page()), ("events.schema.json", schema_text())]
)
def test_pages_are_as_generated(name, text):
    assert (DOCS / name).read_text(encoding="utf-8") == text, "make settings-page"


def test_the_schema_is_one_and_tells_kinds_apart():
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text()))
    line = {"time": 1.0, "event": "plan", "run_id": None, "text": "x", "planned": 3, "todo": 2}
    SCHEMA.validate(line)
    for change in ({"planned": -1}, {"event": "room"}, {"more": 1}, {"event": "unknown"}):
        with pytest.raises(jsonschema.ValidationError):
            SCHEMA.validate({**line, **change})
    assert {kind["title"] for kind in json_schema()["oneOf"]} == set(EVENTS)
