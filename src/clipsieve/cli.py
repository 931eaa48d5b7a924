"""The command line: `clipsieve run`, `embed`, `score`, `compact`, `sql`, `status`, ...

Exit codes: 0 done, also if there was nothing to do; 1 failed, or rows do not add up; 2 a usage
error; 3 finished, but shards failed or a deadline left some; 75 another run is writing there;
130 and 143 stopped by SIGINT and SIGTERM, after the shard in hand.

Options of a Beam runner follow `--`:  clipsieve run IN OUT --runner NAME -- --option=value
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipsieve.config import LOG_FORMATS, RunConfig, load_toml, merged_options, parse_options
from clipsieve.errors import ClipsieveError

#: Rows that `sql` prints as a table.
SHOWN_ROWS = 1000

F = TypeVar("F", bound=Callable[..., Any])

_SCORER_OPTIONS: list[Callable[[F], F]] = [
    click.option("--reference", help="density: rows, 'all', 'batch<rows>', separated by commas"),
    click.option("--option", multiple=True, help="of a scorer: density.k=32; may be repeated"),
    click.option("--refit", is_flag=True, default=None, help="fit scorers again, to all rows"),
]

_RUN_OPTIONS: list[Callable[[F], F]] = [
    click.option("--config", type=click.Path(), help="TOML file with the same keys as the options"),
    click.option("--model", help="open_clip model, hf-hub:org/name, local-dir:PATH, or tiny"),
    click.option("--pretrained", help="open_clip tag, or a weights file"),
    click.option("--device", help="auto, cpu, cuda, cuda:N"),
    click.option("--dtype", help="auto, float32, bfloat16, float16"),
    click.option("--batch-size", type=int, help="images a forward pass"),
    click.option("--threads", type=int, help="decoding threads"),
    click.option("--scorers", help="names, separated by commas: clip, density, clip_depicts, ..."),
    *_SCORER_OPTIONS,
    click.option("--input-format", help="auto, parquet, webdataset, folder"),
    click.option("--image-col", help="column with the pixels"),
    click.option("--caption-col", help="column with the caption"),
    click.option("--uid-col", help="column with the identity"),
    click.option("--references-col", help="column with reference captions"),
    click.option("--byte-budget", type=int, help="bytes of encoded images read at once"),
    click.option("--rows-per-item", type=int, help="rows over which one file is split"),
    click.option("--shard-prefix", help="put before the output name of every shard"),
    click.option("--max-image-bytes", type=int),
    click.option("--max-image-side", type=int, help="pixels"),
    click.option("--max-image-pixels", type=int),
    click.option("--workers", type=int, help="processes on this machine"),
    click.option("--runner", help="Beam runner; its options follow --"),
    click.option("--run-id", help="name of the run; made from the time if not given"),
    click.option("--reprocess", is_flag=True, default=None, help="write done shards again"),
    click.option("--max-failed-shards", type=int, help="more than these: exit code 3"),
    click.option("--deadline", help="begin no shard after this long: 90s, 30m, 5h"),
    click.option("--log-format", type=click.Choice(LOG_FORMATS)),
    click.option("--dry-run", is_flag=True, help="say what would be done, and write nothing"),
]


def _with(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


#: All settings of a run as options, without defaults: those are RunConfig's.
_run_options = _with(_RUN_OPTIONS)


@click.group(help=__doc__)
@click.version_option(package_name="clipsieve")
def cli() -> None:
    """The group of all commands."""


@cli.command()
@click.argument("inputs", nargs=-1, required=True)
@click.argument("out")
@_run_options
@click.pass_obj
def run(beam_args: Sequence[str], /, **options: Any) -> int:
    """Embed, score and compact: shards in, tables out."""
    return _run(options, beam_args, wide=True)


@cli.command()
@click.argument("inputs", nargs=-1, required=True)
@click.argument("out")
@_run_options
@click.pass_obj
def embed(beam_args: Sequence[str], /, **options: Any) -> int:
    """The first stage of run alone: ledger, embeddings, clip scores."""
    return _run(options, beam_args, wide=False)


@cli.command()
@click.argument("out")
@click.option("--scorers", required=True, help="names, separated by commas")
@_with(_SCORER_OPTIONS)
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N")
@click.option("--runner", default="FnApiRunner", help="Beam runner; its options follow --")
@click.pass_obj
def score(
    beam_args: Sequence[str], /, out: str, scorers: str, device: str, runner: str, **options: Any
) -> int:
    """Add score families from stored embeddings; no image is decoded."""
    from clipsieve.pipelines.score import score as score_job

    refit = bool(options.pop("refit"))
    given = _scorer_options(options)
    return score_job(
        out, _names(scorers), device, runner, beam_args, options=given, refit=refit
    ).exit_code


@cli.command()
@click.argument("out")
@click.option("--runner", default="FnApiRunner", help="Beam runner; its options follow --")
@click.pass_obj
def compact(beam_args: Sequence[str], out: str, runner: str) -> int:
    """Rebuild the wide table behind the `scores` view."""
    from clipsieve.pipelines.compact import main as compact_main

    return compact_main([out, "--runner", runner, *beam_args])


@cli.command()
@click.argument("out")
@click.argument("query", required=False)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table")
def sql(out: str, query: str | None, form: str) -> int:
    """Run QUERY over the output folder OUT; reads standard input if there is no QUERY.

    Views: scores, samples, embeddings, one for each score family, runs, shards.
    """
    from clipsieve.sql.connect import run_query

    text = query if query is not None else sys.stdin.read()
    answer = run_query(out, text, SHOWN_ROWS + 1 if form == "table" else None)
    if answer is None:
        return 0
    if form == "table":
        _print_rows(answer.columns, answer.rows)
    elif form == "csv":
        import csv

        writer = csv.writer(sys.stdout)
        writer.writerow(answer.columns)
        writer.writerows(answer.rows)
    else:
        for row in answer.rows:
            click.echo(json.dumps(dict(zip(answer.columns, row, strict=True)), default=str))
    return 0


@cli.command()
@click.argument("out")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="groups")
@click.option("--column", default="density_kdist", show_default=True, help="higher is suspicious")
@click.option(
    "--fraction", default=0.01, show_default=True, help="share of the rows to look at, at least"
)
def audit(out: str, top: int, column: str, fraction: float) -> int:
    """Group the most suspicious rows by caption and near-duplicate picture.

    Writes the table density_groups and prints the groups with the most evidence.
    """
    from clipsieve.pipelines.audit import audit as audit_job

    result = audit_job(out, column, fraction)
    click.echo(result.summary())
    if result.groups:
        _print_groups(result.groups[:top])
        click.echo(f'all of them: clipsieve sql {out} "FROM density_groups"')
    return 0


@cli.command()
@click.argument("out")
def reconcile(out: str) -> int:
    """Prove that every input row is accounted for; exit code 1 if not."""
    from clipsieve.formats.registry import count_rows
    from clipsieve.pipelines.plan import plan_inputs_again
    from clipsieve.store import dataset as datasets
    from clipsieve.store.layout import Layout
    from clipsieve.store.reconcile import reconcile as compare

    layout = Layout.at(out)
    dataset = datasets.require(layout)
    accounts = list(compare(layout, dataset, plan_inputs_again(dataset), count_rows))
    wrong = [account for account in accounts if account.problems]
    _print_accounts(accounts)
    for account in wrong:
        for problem in account.problems:
            click.echo(f"{account.shard} ({account.uri}): {problem}", err=True)
    if wrong:
        click.echo(f"{len(wrong)} of {len(accounts)} shards do not add up", err=True)
        return 1
    rows = sum(account.ledger_rows or 0 for account in accounts)
    click.echo(f"all {rows:,} input rows of {len(accounts)} shards are in the ledger exactly once")
    return 0


@cli.command()
@click.argument("out")
def status(out: str) -> int:
    """What is done, what is left, what failed and why."""
    from clipsieve.pipelines.status import report

    for line in report(out):
        click.echo(line)
    return 0


@cli.command()
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N")
@click.option("--model", default="tiny", help="the model to load and time")
@click.option("--pretrained", default=None)
def doctor(device: str, model: str, pretrained: str | None) -> int:
    """Device, number format, decoder, model cache, versions; what would be slow, and the cure."""
    from clipsieve.doctor import BAD, examine

    bad = False
    for finding in examine(device, model, pretrained):
        bad |= finding.grade == BAD
        cure = f"  -> {finding.cure}" if finding.cure else ""
        click.echo(f"{finding.grade:5}  {finding.subject:14} {finding.found}{cure}")
    return 2 if bad else 0


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; everything after `--` is Beam's."""
    words = list(sys.argv[1:] if argv is None else argv)
    beam_args: list[str] = []
    if "--" in words:
        at = words.index("--")
        words, beam_args = words[:at], words[at + 1 :]
    try:
        code = cli.main(words, prog_name="clipsieve", obj=beam_args, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = 130
    except ClipsieveError as error:
        click.echo(f"clipsieve: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        code = 0
    sys.exit(code or 0)


def _run(options: dict[str, Any], beam_args: Sequence[str], wide: bool) -> int:
    """The run and embed commands."""
    from clipsieve.pipelines import run as job

    config_file, dry_run = options.pop("config"), options.pop("dry_run")
    settings = load_toml(config_file) if config_file else {}
    given = _scorer_options(options)
    if given:
        held = settings.get("scorer_options", {})
        settings["scorer_options"] = merged_options(held, given)
    settings |= {name: value for name, value in options.items() if value is not None}
    config = RunConfig(**settings, beam_args=tuple(beam_args))
    if dry_run:
        click.echo(json.dumps(job.dry_run(config), indent=1))
        return 0
    return job.run(config, wide=wide).exit_code


def _scorer_options(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Takes what sets options of scorers out of the command's options; by scorer."""
    given = parse_options(options.pop("option"))
    reference = options.pop("reference")
    if reference is not None:
        given.setdefault("density", {})["reference"] = reference
    return given


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table that fits the terminal; at most `SHOWN_ROWS` rows."""
    console = Console(highlight=False)
    table = Table()
    for name in columns:
        table.add_column(Text(name))
    for row in rows[:SHOWN_ROWS]:
        table.add_row(*(_shown(value) for value in row))
    console.print(table)
    if len(rows) > SHOWN_ROWS:
        click.echo(f"more than {SHOWN_ROWS:,} rows; add LIMIT, or use --format csv", err=True)


def _print_groups(groups: Sequence[Any]) -> None:
    """One line a group: figures whole, words cut to the terminal; urls, or uids without them."""
    console = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    figures = [
        [
            *(f"{rank}", f"{group.size:,}", f"{group.rows:,}", f"{group.share:.2%}"),
            *(f"{group.score_mean:.4g}", f"{group.evidence:,.0f}", f"{group.n_images:,}"),
        ]
        for rank, group in enumerate(groups, 1)
    ]
    names = ("#", "rows", "of", "share", "score", "evidence", "pictures")
    widths = [max(map(len, column)) for column in zip(names, *figures, strict=True)]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("caption", no_wrap=True)
    table.add_column("example", no_wrap=True)
    # Left to itself, rich would cut the figures too.  Every column takes two blanks.
    taken = sum(widths) + 2 * (len(widths) + 2) + 1
    room = max(console.width - taken, 20)
    console.width = taken + room
    for line, group in zip(figures, groups, strict=True):
        example = group.uids[0] if group.urls[0] is None else group.urls[0]
        # A line break in a caption would make two lines of it.
        caption = "NULL" if group.caption is None else " ".join(group.caption.split())
        cells = Text(caption), Text(str(example))
        for cell, width in zip(cells, (room * 3 // 5, room * 2 // 5), strict=True):
            cell.truncate(width, overflow="ellipsis")
        table.add_row(*line, *cells)
    console.print(table)


def _shown(value: Any) -> Text:
    """A value as it is: brackets in it are no markup."""
    if value is None:
        return Text("NULL")
    return Text(f"{value:.6g}" if isinstance(value, float) else str(value))


def _print_accounts(accounts: Sequence[Any]) -> None:
    """Totals by state, and of all rows."""
    totals: dict[str, int] = {}
    for account in accounts:
        for state, rows in account.states.items():
            totals[state] = totals.get(state, 0) + rows
    rows_in = sum(account.source_rows or 0 for account in accounts)
    table = Table("state", "rows")
    for state, rows in sorted(totals.items(), key=lambda pair: -pair[1]):
        table.add_row(state, f"{rows:,}")
    table.add_row("ledger", f"{sum(totals.values()):,}", style="bold")
    table.add_row("input", f"{rows_in:,}", style="bold")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
