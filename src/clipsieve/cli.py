"""The command line: `clipsieve ingest`, `run`, `embed`, `score`, `compact`, `sql`, `status`, ...

Exit codes: 0 done, also if there was nothing to do; 1 failed, rows do not add up, or scores differ
by more than a tolerance; 2 a usage error; 3 finished, but shards failed or a deadline left some; 4
finished, but a condition of --fail-if holds; 75 another run is writing there; 130 and 143 stopped
by SIGINT and SIGTERM, after the shard in hand.

Options of a Beam runner follow `--`:  clipsieve run IN OUT --runner NAME -- --option=value
"""

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from clipsieve.cli_options import given_options, options_for, settings_of
from clipsieve.cli_subsets import export, filter_, remove
from clipsieve.cores import sleep_at_barriers
from clipsieve.errors import ClipsieveError, QueryError, UsageError, WeightsMissing
from clipsieve.ingest.settings import IngestConfig
from clipsieve.printing import (
    FORMS,
    SHOWN_ROWS,
    print_accounts,
    print_answer,
    print_detectors,
    print_groups,
    print_json,
    print_lines,
    print_metrics,
    print_verification,
)
from clipsieve.settings import RunConfig, ScoreConfig, WatchConfig, load_toml
from clipsieve.store.lock_terms import LockTerms
from clipsieve.terminal import escaped_streams, read_input

#: Errors whose messages have lines of their own.
_LONG = (QueryError, WeightsMissing)
#: Commands in which options of the Beam runner follow `--`.
BEAM_COMMANDS = (
    "run",
    "embed",
    "watch",
    "score",
    "compact",
    "evaluate",
    "filter",
    "export",
    "remove",
)


class _QueryCommand(click.Command):
    """A command that takes a word with a blank in it for an argument, also behind `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put a line break, which SQL ignores, before a comment at the beginning of a query."""
        words = [f"\n{word}" if re.match(r"--[^\s=]*\s", word) else word for word in args]
        return super().parse_args(ctx, words)


@click.group(help=__doc__)
@click.version_option(package_name="clipsieve")
def cli() -> None:
    """The group of all commands."""


@cli.command()
@options_for(RunConfig)
@click.option("--dry-run", is_flag=True, help="say what would be done, and write nothing")
@click.option(
    "--ingest",
    "urls",
    multiple=True,
    metavar="URLS",
    help="list of URLs to fetch into the input, one folder; may be repeated",
)
@click.option("--ingest-config", type=click.Path(), help="TOML file with settings of ingest")
@click.pass_obj
def run(
    beam_args: Sequence[str],
    /,
    dry_run: bool,
    urls: tuple[str, ...],
    ingest_config: str | None,
    **options: Any,
) -> int:
    """Embed, score and compact: shards in, tables out."""
    if urls or ingest_config:
        if dry_run or not urls:
            raise UsageError("--ingest fetches: say --ingest URLS, and leave --dry-run out")
        config = RunConfig(**settings_of(RunConfig, options, beam_args))
        return _fetch_and_run(urls, ingest_config, config)
    return _run(RunConfig(**settings_of(RunConfig, options, beam_args)), dry_run, wide=True)


@cli.command()
@options_for(RunConfig)
@click.option("--dry-run", is_flag=True, help="say what would be done, and write nothing")
@click.pass_obj
def embed(beam_args: Sequence[str], /, dry_run: bool, **options: Any) -> int:
    """The first stage of run alone: ledger, embeddings, clip scores."""
    return _run(RunConfig(**settings_of(RunConfig, options, beam_args)), dry_run, wide=False)


@cli.command()
@options_for(WatchConfig)
@click.pass_obj
def watch(beam_args: Sequence[str], /, **options: Any) -> int:
    """Repeat run as new shards come, until a time or a signal."""
    import clipsieve

    return clipsieve.watch(**settings_of(WatchConfig, options, beam_args))


def _run(config: RunConfig, dry_run: bool, wide: bool) -> int:
    """The run and embed commands."""
    from clipsieve.job import run as job
    from clipsieve.pipelines.engine import make_engine

    if dry_run:
        print_json(job.dry_run(config, make_engine(config)), indent=1)
        return 0
    with make_engine(config) as engine:
        return job.run(config, engine, wide=wide).exit_code


def _fetch_and_run(urls: tuple[str, ...], file: str | None, config: RunConfig) -> int:
    """The run command with --ingest."""
    from clipsieve.ingest.fetch_and_run import fetch_and_run
    from clipsieve.job.reporter import Reporter
    from clipsieve.pipelines.engine import make_engine

    given = load_toml(file, IngestConfig) if file else {}
    common = {"urls": urls, "shards": config.inputs[0], "log_format": config.log_format}
    fetching = IngestConfig(**{**given, **common})
    return fetch_and_run(fetching, config, make_engine, Reporter(config.log_format))


@cli.command()
@options_for(IngestConfig)
def ingest(**options: Any) -> int:
    """Fetch the images of a list of URLs into shards, from public addresses only.

    Every row of the list becomes a row of a shard, with a reason if there is no image. The same
    command given again goes on where it was stopped. Then: clipsieve run SHARDS OUT
    """
    import clipsieve

    return clipsieve.ingest(**settings_of(IngestConfig, options, ())).exit_code


@cli.command()
@options_for(ScoreConfig, required=("scorers",))
@click.pass_obj
def score(beam_args: Sequence[str], /, **options: Any) -> int:
    """Add score families from stored embeddings; no image is decoded."""
    import clipsieve

    settings = settings_of(ScoreConfig, options, beam_args, required=("scorers",))
    return clipsieve.score(**settings).exit_code


@cli.command()
@options_for(ScoreConfig, only=("out", "runner", "lock", "lease"))
@click.option("--forget-missing", is_flag=True, help="remove shards whose source is gone")
@click.option(
    "--forget-input",
    "forget_inputs",
    multiple=True,
    metavar="PATTERN",
    help="likewise, even all shards of this input, as it was given to `run`; may be repeated",
)
@click.pass_obj
def compact(
    beam_args: Sequence[str],
    /,
    forget_missing: bool,
    forget_inputs: tuple[str, ...],
    **options: Any,
) -> int:
    """Rebuild the wide table behind the `scores` view."""
    from clipsieve.job.compact import compact as compact_job
    from clipsieve.pipelines.engine import make_engine

    config = ScoreConfig(**settings_of(ScoreConfig, options, beam_args))
    with make_engine(config) as engine:
        result = compact_job(
            config.out,
            engine,
            forget_missing=forget_missing,
            forget_inputs=forget_inputs,
            lock_terms=config.lock_terms(),
        )
    print_lines(result.lines)
    return 0


@cli.command(cls=_QueryCommand)
@click.argument("out", required=False)
@click.argument("query", required=False)
@click.option("--format", "form", type=click.Choice(FORMS), default="table", show_default=True)
@click.option("--recipe", help="run the recipe of this name in place of a query")
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="parameter of the recipe"
)
@click.option("--recipes", is_flag=True, help="list recipes and their parameters")
@click.option("--locked", is_flag=True, help="read only, and nothing outside of OUT")
@click.option(
    "--catalog",
    is_flag=False,
    flag_value="",
    metavar="[PATH]",
    help="write views and macros to a database file  [without PATH: OUT/catalog.duckdb]",
)
def sql(
    out: str | None,
    query: str | None,
    form: str,
    recipe: str | None,
    assignments: Sequence[str],
    recipes: bool,
    locked: bool,
    catalog: str | None,
) -> int:
    """Run QUERY over the output folder OUT; reads standard input if there is no QUERY.

    Views: scores, score_columns, samples, embeddings, one for each score family, runs, shards;
    metrics and detectors after evaluate, removals after remove.
    """
    if recipes:
        from clipsieve.sql.recipes import recipe_lines

        print_lines(recipe_lines())
        return 0
    if out is None:
        raise UsageError("out is not given; say OUT")
    if (query is not None) + (recipe is not None) + (catalog is not None) > 1:
        raise UsageError("a query, --recipe and --catalog are three things; give one of them")
    if assignments and recipe is None:
        raise UsageError("--set is for parameters of a recipe; say --recipe NAME")
    if catalog is not None:
        from clipsieve.sql.catalog import write_catalog

        print_lines([f"wrote {write_catalog(out, catalog or None)}"])
        return 0

    from clipsieve.sql.connect import run_query

    if recipe is not None:
        from clipsieve.sql.run_recipe import parse_assignments, recipe_sql

        text = recipe_sql(out, recipe, parse_assignments(assignments))
    else:
        text = query if query is not None else _query_from_input()
    answer = run_query(out, text, SHOWN_ROWS + 1 if form == "table" else None, locked)
    if answer is not None:
        print_answer(answer.columns, answer.rows, form)
    return 0


def _query_from_input() -> str:
    try:
        return read_input()
    except UnicodeDecodeError as error:
        raise UsageError(f"query on standard input is not UTF-8: {error.reason}") from error


@cli.command()
@click.argument("out")
@click.option("--against", required=True, metavar="FILE", help="Parquet, CSV or JSON; or a glob")
@click.option("--column", required=True, help="published column in it, such as similarity")
@click.option("--ours", help="column of scores  [default: clip_similarity]")
@click.option("--on", help="uid or url  [default: uid if the file has it]")
@click.option("--tolerance", type=float, help="exit code 1 if a difference is larger")
@click.option("--top", type=click.IntRange(0, 10_000), default=10, show_default=True, help="pairs")
def verify(out: str, **options: Any) -> int:
    """Compare our scores with a published column, such as LAION's, DataComp's or COYO's.

    Rows are joined by uid or url; keys that are there more than once on a side are left out and
    counted.
    """
    import clipsieve

    result = clipsieve.verify(out, **given_options(options))
    print_verification(result)
    return result.exit_code


@cli.command()
@click.argument("out")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="groups")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME[:high|low]",
    help="further numeric column, and which of its values are suspicious; may be repeated",
)
@click.option(
    "--model-saw-data",
    type=click.Choice(["yes", "no", "unknown"]),
    default="unknown",
    show_default=True,
    help="whether the scoring model was trained on this data, and may have learnt a poison",
)
@click.option("--lock/--no-lock", default=True, help="refuse an object store that cannot lock OUT")
def audit(out: str, top: int, lock: bool, **options: Any) -> int:
    """Find odd copies, wrong captions, odd pictures and poison, as groups.

    Writes tables of all groups, of all their rows, and of all captions and pictures that occur more
    than once; prints the groups with the most evidence.
    """
    from clipsieve.job.audit import audit as audit_job

    terms = LockTerms(is_required=lock)
    result = audit_job(out, lock_terms=terms, **given_options(options))
    print_lines([result.summary()])
    if result.groups:
        print_groups(result.groups[:top], out)
    return 0


@cli.command()
@options_for(ScoreConfig, only=("out", "workers", "stall", "runner", "lock", "lease"))
@click.option("--ood", help="output folder of rows that are out of distribution")
@click.option(
    "--ood-column", help="column that is true where a row is out of distribution; or COLUMN=A,B"
)
@click.option("--labels", help="column with the name of each row's class, or its position")
@click.option("--by", help="measure each value of this column, or each 'shard'")
@click.option("--bins", default=15, show_default=True, help="of the calibration error")
@click.option("--bootstrap", default=200, show_default=True, help="replicates of intervals")
@click.option("--seed", default=0, show_default=True, help="of the replicates")
@click.pass_obj
def evaluate(beam_args: Sequence[str], /, **options: Any) -> int:
    """Measure a dataset, or how well scores tell out-of-distribution rows.

    Alone: MaNo; with --labels also accuracy, calibration (ECE) and selective risk (AURC). With
    --ood or --ood-column: AUROC, AUPR and FPR95 of every ood_* and density_* score. Written as the
    tables metrics and detectors, which `clipsieve sql` reads.
    """
    import clipsieve

    given = given_options({**options, "beam_args": tuple(beam_args)})
    if "out" not in given:
        raise UsageError("out is not given; say OUT")
    result = clipsieve.evaluate(**given)
    if result.metrics:
        print_metrics(result.metrics)
    if result.detectors:
        print_detectors(result.detectors)
    print_lines(result.notes)
    return result.exit_code


@cli.command()
@click.argument("out")
@click.option("--quick", is_flag=True, help="read only files that changed since the last time")
def reconcile(out: str, quick: bool) -> int:
    """Verify every file, and prove that every input row is accounted for; exit code 1 if not.

    Damaged files are named, and the next `clipsieve run` makes them again.
    """
    from clipsieve.formats.names import plural
    from clipsieve.job.reconcile import reconcile_folder
    from clipsieve.store.folder import OutputFolder
    from clipsieve.store.reconcile import NO_SOURCE
    from clipsieve.store.subsets import subset_names

    result = reconcile_folder(out, quick)
    print_accounts(result.accounts)
    if any(NO_SOURCE in account.problems for account in result.accounts):
        cure = (
            f"put the sources back, or remove their rows: clipsieve compact {out} --forget-missing"
        )
        print_lines([cure], err=True)
    wide = result.manifest.wide
    if wide is not None and wide.removals:
        print_lines([f"{wide.removed:,} of them are removed from scores, by lists"])
    subsets = subset_names(OutputFolder.open(out))
    problems = any(account.problems for account in result.accounts)
    if subsets and not problems:
        counted = plural(len(subsets), "subset")
        print_lines([f"kept and dropped rows of {counted} are those of the ledger"])
    if not problems:
        verified = "are as they were written" if not quick else "have not changed"
        print_lines([f"{plural(result.files, 'file')} {verified}"])
    if result.note and problems:
        print_lines([result.note], err=True)
    return int(problems)


@cli.command()
@click.argument("out")
@click.option("--trend", is_flag=True, help="how the last runs compare, and which scores moved")
@click.option("--format", "form", type=click.Choice(FORMS), default="table", show_default=True)
def status(out: str, trend: bool, form: str) -> int:
    """What is done, what is left, what failed and why."""
    from clipsieve.job.status import status_lines

    if not trend:
        print_lines(status_lines(out))
        return 0
    from clipsieve.sql.trend import read_trend

    found = read_trend(out)
    print_answer(found.runs.columns, found.runs.rows, form)
    if found.columns.rows:
        print_answer(found.columns.columns, found.columns.rows, form)
    return 0


@cli.command()
@options_for(RunConfig, only=("device", "model", "pretrained"))
def doctor(**options: Any) -> int:
    """Device, number format, decoder, model cache, versions; what would be slow, and the cure."""
    from clipsieve.doctor import BAD, examine

    bad = False
    for finding in examine(**given_options(options)):
        bad |= finding.grade == BAD
        cure = f"  -> {finding.cure}" if finding.cure else ""
        print_lines([f"{finding.grade:5}  {finding.subject:14} {finding.found}{cure}"])
    return 2 if bad else 0


for command in (filter_, export, remove):
    cli.add_command(command)


def _refused(error: ClipsieveError) -> int:
    """Print why a command ends, if somebody still reads; its exit code."""
    if error.is_reported:
        return error.exit_code
    text = f"clipsieve: {error}"
    with suppress(BrokenPipeError):
        print_lines(text.split("\n") if isinstance(error, _LONG) else [text], err=True)
    return error.exit_code


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; nothing from data steers the terminal."""
    with escaped_streams():
        _main(argv)


def _main(argv: Sequence[str] | None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    beam_args: list[str] = []
    if words[:1] and words[0] in BEAM_COMMANDS and "--" in words:
        at = words.index("--")
        words, beam_args = words[:at], words[at + 1 :]
    sleep_at_barriers()
    try:
        code = cli.main(words, prog_name="clipsieve", obj=beam_args, standalone_mode=False)
    except click.ClickException as error:
        error.show(sys.stderr)
        code = error.exit_code
    except click.Abort:
        code = 130
    except ClipsieveError as error:
        code = _refused(error)
    except BrokenPipeError:
        code = 0
    except OSError as error:
        from clipsieve.store.storage_errors import storage_error

        known = storage_error(error)
        if known is None:
            raise
        code = _refused(known)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
