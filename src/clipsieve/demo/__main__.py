"""Write a demo data set: `python -m clipsieve.demo FOLDER`."""

import argparse
import sys
from pathlib import Path

from clipsieve.demo.prompts import write_dense_classes
from clipsieve.demo.samples import MIXTURES, Scenes
from clipsieve.demo.shards import write_shards
from clipsieve.errors import UsageError


def main(argv: list[str] | None = None) -> int:
    """Write the shards and name them; returns the exit code.

    Dense data comes with its classes, as `classes.json`.
    """
    parser = argparse.ArgumentParser(prog="python -m clipsieve.demo", description=__doc__)
    parser.add_argument("folder", type=Path, help="created if missing")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--mixture",
        choices=tuple(MIXTURES),
        default="demo",
        help="what it holds: the web's flaws; one class a picture, or a held-out class; few "
        "concepts, large, or held-out classes alike, with classes.json (default: demo)",
    )
    options = parser.parse_args(argv)
    mixture = MIXTURES[options.mixture]
    try:
        paths = write_shards(
            options.folder,
            rows=options.rows,
            shards=options.shards,
            seed=options.seed,
            mixture=mixture,
            processes=options.processes,
        )
    except (UsageError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UsageError.exit_code
    if mixture.scenes is Scenes.DENSE:
        write_dense_classes(options.folder / "classes.json")
    print(f"{options.rows} rows in {len(paths)} shards under {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
