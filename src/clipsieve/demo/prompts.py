"""Texts that stand for a class: templates filled with each of its nouns."""

from clipsieve.demo.classes import NOUNS

TEMPLATES = (
    "a photo of a {}",
    "a drawing of a {}",
    "clip art of a {}",
    "{}",
    "a large {}",
    "a small {}",
    "an image of a {} on a plain background",
)


def class_prompts(class_name: str) -> list[str]:
    """Every template filled with every noun of the class.

    >>> class_prompts("square")[:2]
    ['a photo of a square', 'a photo of a box']
    """
    return [template.format(noun) for template in TEMPLATES for noun in NOUNS[class_name]]
