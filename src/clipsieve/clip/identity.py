"""Which model an embedding was made with.  Imports no library that loads models."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from clipsieve.store.names import slug
from clipsieve.store.validation import Pattern, Range

TINY = "tiny"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Everything that decides what an embedding means.

    Attributes:
      model: name as given: an open_clip model, `hf-hub:org/name`, `local-dir:PATH`, or `tiny`.
      pretrained: open_clip tag or weights file; None where the name already says it.
      weights_sha256: sha256 of the weights file.
      quick_gelu: whether the activation is QuickGELU.
      dim: components of an embedding.
      context_length: tokens of a caption, longer ones are cut.
      preprocess: size, mean, std, interpolation and resize mode of images.
      dtype: number format of the forward pass; `auto` until the machine that computes chose one.
    """

    model: str
    pretrained: str | None
    weights_sha256: str
    quick_gelu: bool
    dim: Annotated[int, Range(1, 1 << 20)]
    context_length: Annotated[int, Range(1, 1 << 20)]
    preprocess: dict[str, Any]
    dtype: Annotated[str, Pattern("[a-z0-9]{1,32}")]

    @property
    def slug(self) -> str:
        """Folder name for this model's embeddings."""
        name = self.model.removeprefix("local-dir:").rstrip("/").split("/")[-1]
        name = self.model if self.model.startswith("hf-hub:") else name
        return slug(f"{name}-{Path(self.pretrained).stem}" if self.pretrained else name)

    def identity_key(self) -> dict[str, Any]:
        """Return the identity without the place of local files; revisions are hashes of it."""
        value = asdict(self)
        if self.model.startswith("local-dir:"):
            value["model"] = "local-dir"
        if self.pretrained is not None and Path(self.pretrained).is_absolute():
            value["pretrained"] = "file"
        return value


def absolute_names(model: str, pretrained: str | None) -> tuple[str, str | None]:
    """Name the same model and weights so that they mean the same from any directory."""
    if model.startswith("local-dir:"):
        folder = Path(os.path.expanduser(model.removeprefix("local-dir:"))).absolute()
        model = f"local-dir:{folder}"
    if pretrained is not None and os.path.isfile(os.path.expanduser(pretrained)):
        pretrained = str(Path(os.path.expanduser(pretrained)).absolute())
    return model, pretrained
