"""Where everything lies in an output folder."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from clipsieve.errors import UsageError


def slug(name: str) -> str:
    """`name` as a safe folder name: runs of other characters than `A-Za-z0-9._-` become `_`.

    >>> slug("hf-hub:org/name")
    'hf-hub_org_name'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._") or "_"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths inside the output folder `root` (absolute).

    >>> Layout.at("/data/out").samples("00000").as_posix()
    '/data/out/samples/00000.parquet'
    """

    root: Path

    @classmethod
    def at(cls, root: str | Path) -> "Layout":
        """The layout of the folder `root`, made absolute; local folders only.

        Raises:
          UsageError: if `root` is empty or a URL.
        """
        if not str(root):
            raise UsageError("output folder '' is empty; name a folder, '.' for this one")
        if "://" in str(root):
            raise UsageError(
                f"output folder {root!s} is a URL; clipsieve writes to local or mounted folders: "
                "give a path, and copy the finished folder to the object store"
            )
        return cls(Path(os.path.abspath(Path(root).expanduser())))

    @property
    def dataset(self) -> Path:
        """The file that says which revisions and which wide build are active."""
        return self.root / "dataset.json"

    @property
    def lock(self) -> Path:
        """The file whose lock a writer holds."""
        return self.root / ".lock"

    @property
    def runs(self) -> Path:
        """Manifests and shard records of all runs."""
        return self.root / "_runs"

    @property
    def sql(self) -> Path:
        """The views and macros, as text."""
        return self.root / "sql"

    def samples(self, shard: str) -> Path:
        """The ledger of one shard."""
        return self.root / "samples" / f"{shard}.parquet"

    def embeddings(self, model: str, revision: str, shard: str) -> Path:
        """The embeddings of one shard; `model` is a slug."""
        return self.root / "embeddings" / model / f"rev={revision}" / f"{shard}.parquet"

    def scores(self, family: str, revision: str, shard: str) -> Path:
        """The scores of one family for one shard."""
        return self.root / "scores" / family / f"rev={revision}" / f"{shard}.parquet"

    def wide(self, build: str) -> Path:
        """The folder of one wide build."""
        return self.root / "wide" / f"build={build}"

    def groups(self, family: str, revision: str) -> Path:
        """The groups behind the suspicious rows of one family."""
        return self.root / "audits" / family / f"rev={revision}" / "groups.parquet"
