"""Captions as structures, so that training can leave attributes out without parsing text."""

import dataclasses
from dataclasses import dataclass

PREFIXES = (
    "",
    "",
    "",
    "a photo of ",
    "an image of ",
    "a picture of ",
    "illustration of ",
    "a drawing of ",
    "clip art of ",
    "this is ",
    "there is ",
    "close up of ",
    "simple graphic showing ",
    "a render of ",
)
SUFFIXES = (
    "",
    "",
    "",
    "",
    "",
    "",
    " - stock photo",
    ", free vector",
    " | wallpaper hd",
    " clipart",
    " for kids",
    " icon design",
    " (high resolution)",
)


@dataclass(frozen=True, slots=True)
class Thing:
    """One noun phrase.

    Attributes:
      noun: what it is called.
      colour: colour words before the noun; may be empty.
      size: size word; may be empty.
      determiner: `a` becomes `an` before a vowel; a number word, or empty.
      trailing_colour: colour words after the noun, such as ` in red and blue`.
    """

    noun: str
    colour: str = ""
    size: str = ""
    determiner: str = "a"
    trailing_colour: str = ""

    def __str__(self) -> str:
        """The phrase as it reads in a caption."""
        words = " ".join(word for word in (self.size, self.colour, self.noun) if word)
        determiner = "an" if self.determiner == "a" and words[0] in "aeiou" else self.determiner
        return f"{determiner} {words}".lstrip() + self.trailing_colour

    def without_colour(self) -> "Thing":
        """The same thing with its colour left unsaid."""
        return dataclasses.replace(self, colour="", trailing_colour="")


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption whose parts can be left out.

    Attributes:
      things: the noun phrases.
      relation: format string that joins them, such as `{0} above {1}`.
      place: where the thing is, such as ` in the top left`; may be empty.
      background: such as ` on a blue background`; may be empty.
      prefix: put before everything.
      suffix: put after everything.

    >>> caption = Caption((Thing("star", "orange"),), background=" on a blue background")
    >>> str(caption)
    'an orange star on a blue background'
    >>> str(caption.without_colours().without_background())
    'a star'
    """

    things: tuple[Thing, ...]
    relation: str = "{0}"
    place: str = ""
    background: str = ""
    prefix: str = ""
    suffix: str = ""

    @classmethod
    def verbatim(cls, text: str) -> "Caption":
        """A caption of exactly this text, with nothing that could be left out."""
        return cls((Thing(text, determiner=""),))

    def __str__(self) -> str:
        """The caption's text."""
        core = self.relation.format(*self.things)
        return f"{self.prefix}{core}{self.place}{self.background}{self.suffix}"

    def without_colours(self) -> "Caption":
        """The same caption with every thing's colour left unsaid."""
        things = tuple(thing.without_colour() for thing in self.things)
        return dataclasses.replace(self, things=things)

    def without_background(self) -> "Caption":
        """The same caption with the background left unsaid."""
        return dataclasses.replace(self, background="")
