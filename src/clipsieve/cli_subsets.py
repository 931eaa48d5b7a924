"""The commands that choose rows, hand them on, and take some out for good."""

from collections.abc import Sequence
from typing import Any

import click

from clipsieve.cli_options import given_options, options_for
from clipsieve.errors import UsageError
from clipsieve.funnel_picture import print_funnel
from clipsieve.printing import print_lines
from clipsieve.settings import ScoreConfig


@click.command(name="filter")
@options_for(
    ScoreConfig,
    only=("out", "workers", "stall", "runner", "deadline", "lock", "lease", "log_format"),
)
@click.option("--name", help="of the subset  [default: that of the recipe]")
@click.option("--where", help="what to keep: a condition in SQL; see docs/filters.md")
@click.option("--recipe", help="a recipe's name, or a TOML file, in place of --where")
@click.option("--set", "parameters", multiple=True, help="NAME=VALUE of the recipe")
@click.option("--recipes", is_flag=True, help="list the recipes")
@click.option("--from", "base", help="a subset to filter in place of all rows")
@click.option("--and", "intersect", multiple=True, help="keep only rows of a subset, or of a list")
@click.option("--or", "union", multiple=True, help="keep the rows of a subset or list too")
@click.option("--minus", "subtract", multiple=True, help="leave out those of a subset or list")
@click.option("--by", help="ids of the lists: uid, sha256, url, laion_hash  [default: by looking]")
@click.option("--dry-run", is_flag=True, help="print the funnel, and write nothing")
@click.option("--replace", is_flag=True, help="take the name of another definition's subset")
@click.option(
    "--thresholds",
    type=click.Choice(("auto", "driver", "stage")),
    default="auto",
    show_default=True,
    help="where they are computed: by DuckDB here, or on the workers",
)
@click.pass_obj
def filter_(beam_args: Sequence[str], /, recipes: bool, **options: Any) -> int:
    r"""Choose what to keep, with a reason for every other row.

    Writes the subset NAME: subsets/NAME/ with the rows kept, the rows dropped and why, and the
    funnel. `clipsieve export` hands it to training. --set, --and, --or and --minus may be repeated.

    \b
      clipsieve filter out/ --name keep --where "clip_score >= 1 AND top_fraction(clip_score, 0.3)"
      clipsieve filter out/ --recipe datacomp.clip_l14_top30 --set similarity=clip_similarity
      clipsieve filter out/ --name final --from keep --minus removal-list.txt
    """
    import clipsieve

    if recipes:
        from clipsieve.select.recipes import recipe_lines

        print_lines(recipe_lines())
        return 0
    given = given_options({**options, "beam_args": tuple(beam_args)})
    if "out" not in given:
        raise UsageError("out is not given; say OUT")
    result = clipsieve.filter(**given)
    if result.exit_code == 0:
        print_funnel(result)
    return result.exit_code


@click.command()
@options_for(ScoreConfig, only=("out", "workers", "stall", "runner", "lock", "lease"))
@click.argument("subset")
@click.option(
    "--format",
    type=click.Choice(("npy", "parquet", "tars", "clip-retrieval", "uids")),
    required=True,
    help="npy is DataComp's sorted uid pairs, tars are webdatasets as img2dataset writes them",
)
@click.option(
    "--to",
    required=True,
    help="folder that is new or empty; for npy also a .npy file, for uids a .txt file",
)
@click.option("--with-images", is_flag=True, help="parquet: the pictures as a column too")
@click.option("--samples-per-tar", type=click.IntRange(min=1), help="tars  [default: 10000]")
@click.pass_obj
def export(beam_args: Sequence[str], /, **options: Any) -> int:
    """Write the rows of SUBSET of the output folder OUT for training and other tools.

    OUT and SUBSET must both be given. Pictures are read again from the inputs, byte for byte. Kept
    rows without a place in the format, such as those without a picture in tars, are listed with the
    reason in left_out.parquet. What an interrupted export left is kept: run the same command again.
    """
    import clipsieve

    given = given_options({**options, "beam_args": tuple(beam_args)})
    result = clipsieve.export(**given)
    print_lines([result.summary(), *result.notes])
    return result.exit_code


@click.command()
@options_for(ScoreConfig, only=("out", "workers", "stall", "runner", "lock", "lease"))
@click.argument("id_list", metavar="[LIST]", required=False)
@click.option("--by", help="kind of the ids: uid, sha256, url or laion_hash  [default: by sight]")
@click.option("--name", help="of the list  [default: that of the file]")
@click.option("--reason", help="why, kept with the list")
@click.option("--dry-run", is_flag=True, help="count the rows, and write nothing")
@click.option("--lists", is_flag=True, help="show the lists that are active")
@click.option("--undo", metavar="NAME", help="take a list back")
@click.option("--refresh", is_flag=True, help="apply the active lists to shards that are new")
@click.pass_obj
def remove(beam_args: Sequence[str], /, lists: bool, refresh: bool, **options: Any) -> int:
    """Remove the rows that LIST names from scores, and from all that is made later.

    LIST is a file of uids, sha256 of pictures, URLs or LAION hashes: text with one a line, .npy,
    .parquet or .csv.  No row is lost, and nothing is scored again.
    """
    import clipsieve
    from clipsieve.job.removal_report import list_lines

    given = given_options({**options, "beam_args": tuple(beam_args)})
    asked = [given.get("id_list"), given.get("undo"), lists or None, refresh or None]
    if "out" not in given or sum(each is not None for each in asked) != 1:
        raise UsageError("say remove OUT and one of LIST, --lists, --undo NAME and --refresh")
    out = given["out"]
    if lists:
        print_lines(list_lines(out))
        return 0
    result = clipsieve.remove(**given)
    print_lines(result.lines(out))
    return 0
