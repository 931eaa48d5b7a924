"""Lists of classes and templates: bundled ones, files of users', and every refusal."""

import json
import subprocess
import sys

import pytest

from clipsieve.clip.class_lists import (
    FILE_OPTIONS,
    checked_texts,
    class_prompt_set,
    read_classes,
    read_templates,
    read_texts,
)
from clipsieve.demo.classes import CLASSES
from clipsieve.errors import UsageError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file into the working directory, as bytes, text or JSON, and return its name."""
    monkeypatch.chdir(tmp_path)

    def write_file(name, content):
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        (tmp_path / name).write_bytes(content)
        return name

    return write_file


# Bundled lists


def test_bundled_names_are_returned_as_they_are(write):
    write("imagenet", "cat\n")
    assert [read_classes(name) for name in ("imagenet", "demo")] == ["imagenet", "demo"]
    assert [read_templates(name) for name in ("simple", "openai")] == ["simple", "openai"]
    assert read_classes("./imagenet") == ["cat"]


def test_imagenet_is_open_clips_and_has_two_names_twice():
    prompts = class_prompt_set("imagenet", "simple")
    names = prompts.names
    assert (len(names), names[0], names[-1]) == (1000, "tench", "toilet paper")
    assert {name for name in names if names.count(name) > 1} == {"missile", "sunglasses"}
    assert prompts.texts[0] == ("a photo of a tench",)


def test_openai_templates_are_open_clips_and_cost_little_the_second_time():
    prompts = class_prompt_set("imagenet", "openai")
    assert {len(texts) for texts in prompts.texts} == {80}
    assert prompts.texts[0][0] == "a bad photo of a tench."
    assert class_prompt_set("imagenet", "openai") is prompts


def test_the_demos_classes_are_described_by_their_own_texts():
    prompts = class_prompt_set("demo", "openai")
    assert prompts.names == CLASSES
    assert "a drawing of a box" in prompts.texts[CLASSES.index("square")]
    assert prompts == class_prompt_set("demo", "simple")


def test_bundled_lists_are_those_of_open_clip():
    from open_clip import zero_shot_metadata as lists

    prompts = class_prompt_set("imagenet", "openai")
    assert prompts.names == tuple(lists.IMAGENET_CLASSNAMES)
    name = prompts.names[1]
    assert prompts.texts[1] == tuple(make(name) for make in lists.OPENAI_IMAGENET_TEMPLATES)


def test_bundled_lists_do_not_import_open_clip():
    code = (
        "import sys; from clipsieve.clip.class_lists import class_prompt_set;"
        "class_prompt_set('imagenet', 'openai'); assert 'open_clip' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Files


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "cat\n\n  dog \n\n", ["cat", "dog"]),
        ("a.txt", b"\xef\xbb\xbfcat\r\ndog\rowl", ["cat", "dog", "owl"]),
        ("a", "# no comment\ngrüße\u2028x", ["# no comment", "grüße\u2028x"]),
        ("a.json", ["cat", " dog"], ["cat", "dog"]),
        ("a.JSON", {"classes": ["cat"]}, ["cat"]),
        (
            "a.json",
            {"b": "a bee", "a": ["an ant", "ants "]},
            {"b": ["a bee"], "a": ["an ant", "ants"]},
        ),
        ("a.json", {"classes": {"b": "a bee"}}, {"b": ["a bee"]}),
        ("a.json", {"classes": "lessons"}, {"classes": ["lessons"]}),
        (
            "a.toml",
            'cat = "a cat"\n"sea lion" = ["x", "y"]',
            {"cat": ["a cat"], "sea lion": ["x", "y"]},
        ),
        ("a.toml", '[classes]\ncat = "a cat"', {"cat": ["a cat"]}),
        ("a.toml", 'classes = ["cat", "dog"]', ["cat", "dog"]),
    ],
)
def test_classes_are_read_from_files(write, name, content, expected):
    classes = read_classes(write(name, content))
    assert classes == expected
    assert list(classes) == list(expected)  # in the order of the file
    assert json.loads(json.dumps(classes)) == classes
    assert class_prompt_set(classes, "simple").names == tuple(expected)


def test_templates_are_read_from_files(write):
    assert read_templates(write("t.txt", "a {}\n\n 'a {} by a {}' \n")) == [
        "a {}",
        "'a {} by a {}'",
    ]
    assert read_templates(write("t.json", ["a {}", "a {}"])) == ["a {}", "a {}"]  # counts twice


def test_texts_are_read_from_files(write):
    assert read_texts(write("t.txt", "the nice owl\nowl\nowl\n")) == ["the nice owl", "owl", "owl"]
    assert read_texts(write("t.json", ["owl "])) == ["owl"]
    lists = {"negatives", "words", "normal", "abnormal"}
    assert set(FILE_OPTIONS) == {"classes", "templates", *lists}
    assert FILE_OPTIONS["words"]("t.json") == ["owl"]


def test_the_home_folder_is_expanded(write, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write("c.txt", "cat")
    assert read_classes("~/c.txt") == ["cat"]


# Prompt sets


def test_names_are_put_into_templates_and_descriptions_are_not():
    prompts = class_prompt_set([" cat", "sea lion"], ["a {}", "{} or {}"])
    assert prompts.names == ("cat", "sea lion")
    assert prompts.texts == (("a cat", "cat or cat"), ("a sea lion", "sea lion or sea lion"))
    described = class_prompt_set({"cat": "a {} cat", "dog": ["a dog", "a dog"]}, ["a {}"])
    assert described.texts == (("a {} cat",), ("a dog", "a dog"))
    assert class_prompt_set(["{}"], ["a {}"]).texts == (("a {}",),)


def test_the_same_arguments_give_the_same_object():
    for classes in (["cat", "dog"], {"cat": ["a cat"]}, "demo"):
        prompts = class_prompt_set(classes, ["a {}"], normalize_texts=False)
        assert class_prompt_set(classes, ("a {}",), normalize_texts=False) is prompts
        assert not prompts.normalize_texts
        assert class_prompt_set(classes, ["a {}"]) != prompts


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", "cat\n\ndog\n cat ", r"'cat' is given twice, as line 1 of c.txt and as line 4"),
        ("c.txt", "", r"classes c.txt are none; name one class at least"),
        ("c.txt", " \n\t\n", r"classes c.txt are none"),
        ("c.txt", "cat\na\0b", r"'a\\x00b', line 2 of c.txt, holds a character .* \(NUL"),
        ("c.txt", b"caf\xe9", r"classes c.txt is not UTF-8 text .*; save it as UTF-8"),
        ("c.json", ["cat", "dog", "dog"], r"as entry 2 of c.json and as entry 3 of c.json"),
        ("c.json", ["cat", " "], r"class name ' ', entry 2 of c.json, is empty; fill it in"),
        ("c.json", ["cat", 3], r"class name 3, entry 2 of c.json, is no text; put it in quotes"),
        ("c.json", ["\ud800"], r"half of a surrogate pair"),
        ("c.json", [], r"classes c.json are none"),
        ("c.json", {}, r"classes c.json are none"),
        ("c.json", '"cat"', r"classes c.json holds 'cat'; let it hold a list of texts, or a table"),
        ("c.json", "[", r"classes c.json cannot be parsed \(.*\); correct the file"),
        ("c.json", "[" * 100_000, r"classes c.json cannot be parsed"),
        ("c.json", '{"a": "x", "a": "y"}', r"key 'a' is there twice"),
        ("c.json", {"a": "x", "a ": "y"}, r"'a' is given twice, as entry 1 .* entry 2"),
        ("c.json", {"a": []}, r"class 'a', entry 1 of c.json, has no text; give one"),
        ("c.json", {"a": None}, r"class 'a', entry 1 of c.json, is described by None; give a text"),
        ("c.json", {"a": {"b": "c"}}, r"class 'a', entry 1 of c.json, is described by {'b': 'c'}"),
        ("c.json", {"a": ["x", ""]}, r"text '', entry 2 of class 'a', is empty"),
        ("c.json", {"a": [["x"]]}, r"text \['x'\], entry 1 of class 'a', is no text"),
        ("c.json", {"": "x"}, r"class name '', entry 1 of c.json, is empty"),
        ("c.toml", "a = 3", r"class 'a', entry 1 of c.toml, is described by 3"),
        ("c.toml", "a = ", r"classes c.toml cannot be parsed"),
        ("c.toml", 'b = "x"\n[classes]\na = "y"', r"class 'classes', entry 2 .* is described by"),
    ],
)
def test_wrong_classes_are_refused(write, name, content, message):
    with pytest.raises(UsageError, match=message):
        read_classes(write(name, content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "a {}\na cat", r"template 'a cat', line 2 of t.txt, has no {}; put {} where"),
        ("t.txt", "a {name}", r"has no {}"),
        ("t.txt", "", r"templates t.txt are none; give one template at least"),
        ("t.json", {"a": "a {}"}, r"templates t.json are a table; give a list"),
        ("t.json", ["a {}", ""], r"template '', entry 2 of t.json, is empty"),
    ],
)
def test_wrong_templates_are_refused(write, name, content, message):
    with pytest.raises(UsageError, match=message):
        read_templates(write(name, content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "\n", r"list of texts t.txt is empty; give one text at least"),
        ("t.json", {"a": "b"}, r"list of texts t.json is a table"),
        ("t.json", ["a", None], r"text None, entry 2 of t.json, is no text"),
    ],
)
def test_wrong_texts_are_refused(write, name, content, message):
    with pytest.raises(UsageError, match=message):
        read_texts(write(name, content))


def test_what_is_no_list_and_no_file_is_refused_with_close_names(tmp_path):
    with pytest.raises(
        UsageError, match=r"classes 'ImagNet' is neither a file nor .* \(close names: imagenet\)"
    ):
        read_classes("ImagNet")
    with pytest.raises(UsageError, match=r"close names: none\); .* one of openai, simple"):
        read_templates("nothing.txt")
    with pytest.raises(UsageError, match=r"neither a file nor a bundled list"):
        read_classes("a\0b")
    with pytest.raises(UsageError, match=r"neither a file nor a bundled list"):
        read_classes("")
    with pytest.raises(UsageError, match=r"list of texts 'no.txt' cannot be read \(No such file"):
        read_texts("no.txt")
    with pytest.raises(UsageError, match=r"classes .* cannot be read"):
        read_classes(str(tmp_path))


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ("cats.txt", "simple", r"classes 'cats.txt' are no bundled list; .*read_classes makes"),
        ("demo", "t.txt", r"templates 't.txt' are no bundled list; choose from openai, simple"),
        ([], "simple", r"classes are an empty list; give one text at least"),
        ({}, "simple", r"classes are an empty table"),
        (["a"], [], r"templates are an empty list"),
        (None, "simple", r"classes are None; give a list of texts, or one of demo, imagenet"),
        ({"a", "b"}, "simple", r"give a list of texts"),
        (b"cat", "simple", r"classes are b'cat'"),
        (["a", ["b"]], "simple", r"classes hold unhashable type: 'list'; give texts"),
        (["a", "b", "a"], "simple", r"as entry 1 of option classes and as entry 3 of option"),
        (["a", 3], "simple", r"class name 3, entry 2 of option classes, is no text"),
        (["a", ""], "simple", r"class name '', entry 2 of option classes, is empty"),
        (["a"], ["a"], r"template 'a', entry 1 of option templates, has no {}"),
        ("demo", ["a"], r"template 'a', entry 1 of option templates, has no {}"),
        ({"a": []}, "simple", r"class 'a', entry 1 of option classes, has no text"),
        ({"a": 3}, "simple", r"class 'a', entry 1 of option classes, is described by 3"),
        ({3: "a"}, "simple", r"class name 3, entry 1 of option classes, is no text"),
        ({"a": [["b"]]}, "simple", r"classes hold unhashable type: 'list'; give texts"),
    ],
)
def test_wrong_lists_of_callers_are_refused(classes, templates, message):
    with pytest.raises(UsageError, match=message):
        class_prompt_set(classes, templates)


def test_texts_of_callers_are_checked():
    assert checked_texts([" a", "a"], "words") == ("a", "a")
    for value, message in (
        ("w.txt", r"option words is 'w.txt'; give a list of texts"),
        ([], r"option words is an empty list"),
        (["a", 1], r"text 1, entry 2 of option words, is no text"),
    ):
        with pytest.raises(UsageError, match=message):
            checked_texts(value, "words")
