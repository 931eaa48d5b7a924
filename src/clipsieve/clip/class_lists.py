"""Lists of classes and templates of prompts: bundled ones, and what a user gives."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from clipsieve.demo.classes import CLASSES
from clipsieve.demo.prompts import class_prompts
from clipsieve.scorers.base import PromptSet

Classes = str | Sequence[str] | Mapping[str, Sequence[str]]
"""`imagenet`, `demo`, names of classes, or texts that describe each class, by its name."""
Templates = str | Sequence[str]
"""`simple`, `openai`, or texts in which `{}` stands for a class."""

SIMPLE_TEMPLATES = ("a photo of a {}",)
BUNDLED_CLASSES = ("demo", "imagenet")
BUNDLED_TEMPLATES = ("openai", "simple")


def class_prompt_set(classes: Classes, templates: Templates, **kinds: Any) -> PromptSet:
    """Return the prompts of some classes.

    Args:
      classes: names, which are put into the templates; or texts of each class, taken as they are.
      templates: see `Templates`.
      **kinds: other attributes of the prompt set.
    """
    if isinstance(classes, Mapping):
        described = tuple((name, tuple(texts)) for name, texts in classes.items())
        return _described(described, tuple(kinds.items()))
    names = classes if isinstance(classes, str) else tuple(classes)
    texts = templates if isinstance(templates, str) else tuple(templates)
    return _named(names, texts, tuple(kinds.items()))


@lru_cache(maxsize=32)
def _described(
    classes: tuple[tuple[str, tuple[str, ...]], ...], kinds: tuple[tuple[str, Any], ...]
) -> PromptSet:
    names, texts = zip(*classes, strict=True)
    return PromptSet(tuple(names), tuple(texts), **dict(kinds))


@lru_cache(maxsize=32)
def _named(
    classes: str | tuple[str, ...],
    templates: str | tuple[str, ...],
    kinds: tuple[tuple[str, Any], ...],
) -> PromptSet:
    if classes == "demo":
        texts = tuple(tuple(class_prompts(name)) for name in CLASSES)
        return PromptSet(CLASSES, texts, **dict(kinds))
    if classes == "imagenet":
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

        classes = tuple(IMAGENET_CLASSNAMES)
    if templates == "simple":
        templates = SIMPLE_TEMPLATES
    elif templates == "openai":
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

        templates = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    return PromptSet.from_templates(classes, templates, **dict(kinds))


def _as_it_is(value: str) -> Any:
    return value


FILE_OPTIONS = {"classes": _as_it_is, "templates": _as_it_is}
