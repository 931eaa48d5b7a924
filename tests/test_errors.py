"""The tree of errors in the documentation is the one in the code."""

import re

from clipsieve import errors


def test_the_tree_in_the_docstring_has_every_error():
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ClipsieveError)
    }
    drawn = dict(re.findall(r"^[ │├└─]*([A-Z]\w+) +(\d+)", errors.__doc__ or "", re.MULTILINE))
    assert {name: getattr(errors, name).exit_code for name in classes} == {
        name: int(code) for name, code in drawn.items()
    }
