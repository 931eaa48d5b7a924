"""Options of commands from the definitions of the settings, and their values back."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import click

from clipsieve.definitions import Definition, definitions_of
from clipsieve.errors import UsageError
from clipsieve.settings import load_toml, merged_options, parse_options

F = TypeVar("F", bound=Callable[..., Any])


def options_for(
    config: type, only: Collection[str] = (), required: Collection[str] = ()
) -> Callable[[F], F]:
    """Give a command the settings of `config` as arguments and options.

    None has a default here: what is not given may be in a TOML file, or is as `config` says.

    Args:
      config: class of settings.
      only: names of those to take; without any, all of them and `--config`.
      required: names that must be given, here or in TOML, though they have a default.
    """

    def decorate(command: F) -> F:
        if not only:
            help = "TOML file with the same keys as the options"
            command = click.option("--config", type=click.Path(), help=help)(command)
        for definition in reversed(definitions_of(config)):
            if not only or definition.name in only:
                default = f"default: {definition.default_text}"
                note = "required" if definition.name in required else default
                command = _parameter(definition, note)(command)
        return command

    return decorate


def _parameter(definition: Definition, note: str) -> Callable[[F], F]:
    """A setting as a decorator; `note` stands behind its help."""
    name, option = definition.name, definition.option
    if definition.required:
        return click.argument(name, nargs=-1 if definition.kind is tuple else 1, required=False)
    if option is None:
        return lambda command: command
    kind = definition.kind
    help = f"{definition.help}  [{note}]"
    if kind is bool:
        return click.option(
            f"{option}/--no-{option.removeprefix('--')}", name, default=None, help=help
        )
    return click.option(
        option,
        name,
        type=kind if kind in (int, float) and definition.parse is None else str,
        multiple=kind is Mapping or (kind is tuple and definition.parse is None),
        metavar=f"[{'|'.join(definition.choices)}]" if definition.choices else None,
        help=help,
    )


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options that were on the command line."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def settings_of(
    config: type,
    options: dict[str, Any],
    beam_args: Sequence[str],
    required: Collection[str] = (),
) -> dict[str, Any]:
    """Settings for `config` from the command line and, where it gives none, the TOML file."""
    file = options.pop("config", None)
    settings = load_toml(file, config) if file else {}
    given = given_options({**options, "beam_args": tuple(beam_args)})
    words = parse_options(given.pop("scorer_options", ()))
    if words:
        given["scorer_options"] = merged_options(settings.get("scorer_options", {}), words)
    settings |= given
    for definition in definitions_of(config):
        name = definition.name
        if name not in settings and (definition.required or name in required):
            how = name.upper() if definition.required else f"{definition.option} VALUE"
            raise UsageError(f"{name} is not given; say {how}, or write it in a --config file")
    return settings
