"""What makes a column that a predicate names and the dataset lacks."""

from collections.abc import Iterator, Mapping

from clipsieve.scorers.registry import EMBEDDED, scorers_of_column

#: Model and pretrained tag whose cosine others publish under a name of its own.
_PUBLISHED = {
    "clip_b32_similarity_score": ("ViT-B-32", "openai"),
    "clip_l14_similarity_score": ("ViT-L-14", "openai"),
}
#: Columns of published metadata that no scorer makes.
_OF_SOURCES = {
    "language": "no scorer makes it: the sources bring it, in a column of any name",
    "aesthetic": "no scorer makes it: LAION's metadata bring it",
    "punsafe": "no scorer makes it: LAION's metadata bring it",
    "pwatermark": "no scorer makes it: LAION's metadata bring it",
    "original_width": "img2dataset writes it beside each picture; image_width is that of the file",
    "original_height": "img2dataset writes it beside each picture; image_height is that of the "
    "file",
    "text": "the text of a pair is the column caption",
    "width": "the size of a picture is in image_width and image_height",
    "height": "the size of a picture is in image_width and image_height",
    "similarity": "the cosine of image and caption is clip_similarity",
}


class ColumnMakers(Mapping[str, str]):
    """For a column in lower case, half a sentence that says what makes it, as errors end in.

    Scorers are imported when a name is looked up, not before; iterating yields the names that are
    known beside their columns.
    """

    def __init__(self, out: str) -> None:
        """Name the output folder in commands."""
        self._out = out

    def __getitem__(self, column: str) -> str:
        """Return what makes it.

        Raises:
          KeyError: if nothing is known of it.
        """
        name = column.lower()
        if name in _PUBLISHED:
            model, pretrained = _PUBLISHED[name]
            return (
                f"it is the cosine of {model} {pretrained}: clipsieve run SHARDS {self._out} "
                f"--model {model} --pretrained {pretrained}, or name another column, such as "
                "clip_similarity (in a recipe with --set similarity=clip_similarity)"
            )
        scorers = scorers_of_column(name)
        if EMBEDDED in scorers:
            return f"clipsieve run SHARDS {self._out} makes it"
        if scorers:
            command = f"clipsieve score {self._out} --scorers {scorers[0]}"
            return f"the scorer {' or '.join(scorers)} makes it: {command}"
        return _OF_SOURCES[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names that are no column of a scorer."""
        return iter([*_PUBLISHED, *_OF_SOURCES])

    def __len__(self) -> int:
        """Return how many names are no column of a scorer."""
        return len(_PUBLISHED) + len(_OF_SOURCES)
