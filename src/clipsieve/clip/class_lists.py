"""Lists of classes and templates of prompts: bundled ones, and what a user gives.

Names of classes are unique, but for two pairs of the bundled ImageNet list (`missile` and
`sunglasses`): their prototypes are the same, so the first of each wins every tie.  Texts, unlike
names, may be there more than once, and then count as often.  A class that comes with texts is
described by them alone: templates are for classes that have a name only.  That holds for the
demo's classes too.

The readers of files are called by the driver, once; what they return becomes the option's value.
Formats of files are in `clipsieve.clip.list_files`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from clipsieve.clip.list_files import (
    check_names,
    check_table,
    check_texts,
    list_place,
    read_list_file,
)
from clipsieve.clip.prompt_set import PromptSet
from clipsieve.definitions import shown
from clipsieve.demo.classes import CLASSES
from clipsieve.demo.prompts import class_prompts
from clipsieve.errors import UsageError

Classes = str | Sequence[str] | Mapping[str, str | Sequence[str]]
"""`imagenet`, `demo`, names of classes, or a text or texts that describe each class, by name."""
Templates = str | Sequence[str]
"""`simple`, `openai`, or texts in which `{}` stands for a class."""

SIMPLE_TEMPLATES = ("a photo of a {}",)
BUNDLED_CLASSES = ("demo", "imagenet")
BUNDLED_TEMPLATES = ("openai", "simple")


def read_classes(value: str) -> str | list[str] | dict[str, list[str]]:
    """Return the classes that a user names: a bundled list's name as it is, else a file's content.

    Args:
      value: `imagenet`, `demo`, or the path of a file: text with one name a line; `.json` with a
        list of names, or with an object of names and a text or list of texts each; `.toml` with
        such a table.  A file that has a bundled list's name is `./imagenet`.

    Returns:
      Names, or texts by name, in the order of the file.

    Raises:
      UsageError: if there is no such list or file, it cannot be read, or it is empty; for a name
        that is blank or there twice, a class without a text, and a value of another type.
    """
    if value in BUNDLED_CLASSES:
        return value
    content, place = read_list_file(value, "classes", BUNDLED_CLASSES)
    if not content:
        raise UsageError(f"classes {value} are none; name one class at least")
    if isinstance(content, dict):
        return check_table(content, place)
    return check_names(content, place)


def read_templates(value: str) -> str | list[str]:
    """Return the templates that a user names: a bundled list's name as it is, else those of a file.

    Args:
      value: `simple`, `openai`, or the path of a file: text with one template a line, or `.json`
        with a list.  Each has `{}` in the place of the class, once or more.

    Raises:
      UsageError: if there is no such list or file, it cannot be read, or it is empty; for a
        template that is blank or without `{}`, and a value of another type.
    """
    if value in BUNDLED_TEMPLATES:
        return value
    content, place = read_list_file(value, "templates", BUNDLED_TEMPLATES)
    if isinstance(content, dict):
        raise UsageError(f"templates {value} are a table; give a list, or a text file")
    if not content:
        raise UsageError(f"templates {value} are none; give one template at least")
    return _check_templates(content, place)


def read_texts(path: str) -> list[str]:
    """Return the texts of a file: text with one a line, or `.json` with a list.

    Raises:
      UsageError: if it cannot be read, or is empty; for a blank text, and a value of another type.
    """
    content, place = read_list_file(path, "list of texts")
    if isinstance(content, dict):
        raise UsageError(f"list of texts {path} is a table; give a list, or a text file")
    if not content:
        raise UsageError(f"list of texts {path} is empty; give one text at least")
    return check_texts(content, "text", place)


def checked_texts(value: Any, option: str) -> tuple[str, ...]:
    """Return the texts that a scorer was handed, without the blanks around them.

    Args:
      value: the list; a path is an error here, as only the driver reads files.
      option: its name, for messages.

    Raises:
      UsageError: if it is no list, or is empty; for a blank text, and a value of another type.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise UsageError(
            f"option {option} is {shown(value)}; give a list of texts, such as "
            "clipsieve.clip.class_lists.read_texts makes of a file"
        )
    if not value:
        raise UsageError(f"option {option} is an empty list; give one text at least")
    return tuple(check_texts(value, "text", list_place(f"option {option}")))


FILE_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "classes": read_classes,
    "templates": read_templates,
    "negatives": read_texts,
    "words": read_texts,
    "normal": read_texts,
    "abnormal": read_texts,
}
"""Readers of options that may name a file, by name of the option."""


def class_prompt_set(classes: Classes, templates: Templates, **kinds: Any) -> PromptSet:
    """Return the prompts of some classes; the same object for the same arguments.

    Args:
      classes: names, which are put into the templates; or texts of each class, taken as they are.
      templates: see `Templates`.
      **kinds: other attributes of the prompt set.

    Raises:
      UsageError: see `read_classes` and `read_templates`.
    """
    others = tuple(kinds.items())
    if isinstance(classes, Mapping):
        described = tuple(
            (name, tuple(texts) if isinstance(texts, list) else texts)
            for name, texts in classes.items()
        )
        return _described(_hashable(described, "classes"), others)
    names = _frozen(classes, "classes", BUNDLED_CLASSES, read_classes)
    texts = _frozen(templates, "templates", BUNDLED_TEMPLATES, read_templates)
    return _named(names, texts, others)


@lru_cache(maxsize=32)
def _described(
    classes: tuple[tuple[Any, Any], ...], kinds: tuple[tuple[str, Any], ...]
) -> PromptSet:
    if not classes:
        raise UsageError("classes are an empty table; describe one class at least")
    table = check_table(dict(classes), list_place("option classes"))
    return PromptSet(tuple(table), tuple(map(tuple, table.values())), **dict(kinds))


@lru_cache(maxsize=32)
def _named(
    classes: str | tuple[Any, ...],
    templates: str | tuple[Any, ...],
    kinds: tuple[tuple[str, Any], ...],
) -> PromptSet:
    prompts = _bundled_templates(templates) if isinstance(templates, str) else templates
    prompts = tuple(_check_templates(prompts, list_place("option templates")))
    if classes == "demo":
        texts = tuple(tuple(class_prompts(name)) for name in CLASSES)
        return PromptSet(CLASSES, texts, **dict(kinds))
    if classes == "imagenet":
        names = _open_clip_lists().IMAGENET_CLASSNAMES
        return PromptSet.from_templates(names, prompts, **dict(kinds))
    checked = check_names(classes, list_place("option classes"))
    return PromptSet.from_templates(checked, prompts, **dict(kinds))


def _bundled_templates(name: str) -> tuple[str, ...]:
    if name == "simple":
        return SIMPLE_TEMPLATES
    return tuple(template("{}") for template in _open_clip_lists().OPENAI_IMAGENET_TEMPLATES)


@cache
def _open_clip_lists() -> Any:
    """Return open_clip's module of lists, without the import of the package, which takes seconds.

    Scores are computed from stored embeddings: no process that does so needs the package.
    """
    package = find_spec("open_clip")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = spec_from_file_location("open_clip_zero_shot_metadata", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _frozen(
    value: Any, what: str, bundled: Sequence[str], read: Callable[[str], Any]
) -> str | tuple[Any, ...]:
    """Return the name of a bundled list, or a list as a tuple."""
    if isinstance(value, str):
        if value in bundled:
            return value
        raise UsageError(
            f"{what} {shown(value)} are no bundled list; choose from {', '.join(bundled)}, or give "
            f"a list, such as clipsieve.clip.class_lists.{read.__name__} makes of a file"
        )
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise UsageError(
            f"{what} are {shown(value)}; give a list of texts, or one of {', '.join(bundled)}"
        )
    if not value:
        raise UsageError(f"{what} are an empty list; give one text at least")
    return _hashable(tuple(value), what)


def _hashable(value: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    """Refuse a member that cannot be compared, such as a list in a list."""
    try:
        hash(value)
    except TypeError as error:
        raise UsageError(f"{what} hold {error.args[0]}; give texts") from error
    return value


def _check_templates(values: Sequence[Any], place: Callable[[int], str]) -> list[str]:
    templates = check_texts(values, "template", place)
    for at, template in enumerate(templates):
        if "{}" not in template:
            raise UsageError(
                f"template {shown(template)}, {place(at)}, has no {{}}; put {{}} where the class "
                "is to stand"
            )
    return templates
