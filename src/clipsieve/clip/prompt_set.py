"""Classes by what is said of them: the texts whose vectors make a prototype of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clipsieve.errors import UsageError
from clipsieve.store.canonical import short_hash


@dataclass(frozen=True, slots=True)
class TextMap:
    """A linear map of text embeddings, t to A t, in a file of a user's (LABCLIP).

    Attributes:
      path: of the `.npy` file, (D, D), which every worker must be able to read.
      sha256: of the file.
    """

    path: str
    sha256: str


@dataclass(frozen=True, eq=False)
class PromptSet:
    """K classes, each described by one text or several; encoded once for a model.

    The prototype of a class is the mean of its texts' vectors, normalised (as open_clip's
    `build_zero_shot_classifier` does): each vector is normalised before the mean if
    `normalize_texts`, and the mean if `normalize`.

    Attributes:
      names: K names of classes.
      texts: of each class its texts, one at least.
      normalize_texts: whether each vector has unit norm in the mean.
      normalize: whether prototypes have unit norm.
      text_map: applied to the mean before it is normalised; None for none.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    normalize_texts: bool = True
    normalize: bool = True
    text_map: TextMap | None = None

    def __post_init__(self) -> None:
        """Refuse a class without a text, and names that are not one a class."""
        counts = [len(texts) for texts in self.texts]
        if not counts or min(counts) < 1 or len(counts) != len(self.names):
            raise UsageError(
                f"prompt set of {len(self.names)} names has {counts} texts; give one class at "
                "least, and each class a name and one text at least"
            )

    @classmethod
    def from_templates(
        cls, names: Sequence[str], templates: Sequence[str] = ("a photo of a {}.",), **kinds: Any
    ) -> "PromptSet":
        """Put each name into each template in the place of `{}`.

        Args:
          names: of classes.
          templates: texts with `{}`.
          **kinds: other attributes.

        >>> PromptSet.from_templates(["cat"], ["a {}", "two {}s"]).texts
        (('a cat', 'two cats'),)
        """
        texts = tuple(tuple(t.replace("{}", name) for t in templates) for name in names)
        return cls(tuple(names), texts, **kinds)

    @cached_property
    def texts_key(self) -> str:
        """Hash of everything that decides the mean of each class, beside the model."""
        return short_hash([list(self.names), [list(t) for t in self.texts], self.normalize_texts])

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the prototypes, beside the model."""
        mapped = None if self.text_map is None else self.text_map.sha256
        if self.normalize and mapped is None:
            return self.texts_key
        return short_hash([self.texts_key, self.normalize, mapped])

    def __eq__(self, other: object) -> bool:
        """Whether the prototypes are the same for every model."""
        return isinstance(other, PromptSet) and self.key == other.key

    def __hash__(self) -> int:
        """Hash of the key: of thousands of texts it is computed once."""
        return hash(self.key)
