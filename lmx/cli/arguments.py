"""The words of a command line: Hydra's own options, overrides, and what is neither."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lmx.cli.command import Command
from lmx.config.errors import ConfigError, Problem, RequestError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(message)


def parse(command: Command, arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's own options and the overrides, in any order; ConfigError for options that do not exist."""
    from hydra._internal.utils import get_args_parser

    parser = _Parser(prog=f"lmx {command.name}", add_help=False)
    for action in get_args_parser()._actions:
        if action.option_strings and action.dest not in ("help", "version", "experimental_rerun"):
            parser._add_action(action)
    short = dict(command.flags)
    options, rest = parser.parse_known_args([short.get(word, word) for word in arguments])
    flags = {name: action.nargs != 0 for action in parser._actions for name in action.option_strings}
    words, wrong = _without_dashes(rest, {"--help": False} | flags, command.name)
    if command.literal and not options.multirun:
        from lmx.config.overrides import taken_literally

        words = [taken_literally(word, command.literal) for word in words]
    options.overrides = command.with_implied(words)
    if wrong:
        from lmx.config.compose import Composer

        composer = Composer(
            command.name, command.schema_class(), overrides=options.overrides, **places_of(options, command)
        )
        wrong = composer.followed(wrong, options.overrides)
        raise ConfigError([*wrong, *composer.check(options.overrides)[1]], command.name)
    return options


def _without_dashes(
    words: Sequence[str], flags: Mapping[str, bool], command: str
) -> tuple[list[str], list[Problem]]:
    """The overrides, and a problem for each word that looks like an option: `--steps 100`, `--steps=100`.

    `flags` are the options there are, and whether they take a value.
    """
    from lmx.config.near import nearest

    overrides: list[str] = []
    wrong: list[Problem] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
        elif word != "--":
            name, equals, value = word.partition("=")
            near = nearest(name, flags, cutoff=0.75)
            if near is not None:
                if flags[near] and not equals and rest:
                    equals, value = " ", rest.pop(0)
                message, meant = f"unknown option; the nearest is {near}", f"{near}{equals}{value}"
                word = f"{name}{equals}{value}"
                wrong.append(Problem(word, message, origin="command line", fix=meant, kind="syntax"))
                continue
            meant = word.lstrip("-") if equals else None
            if meant is None and rest and "=" not in rest[0] and not rest[0].startswith("-"):
                meant = f"{word.lstrip('-')}={rest[0]}"
                word = f"{word} {rest.pop(0)}"
            message = "unknown option; a key is set without dashes, key=value"
            message += "" if meant else f" (lmx {command} --help lists options and keys)"
            wrong.append(Problem(word, message, origin="command line", fix=meant, kind="syntax"))
    return overrides, wrong


def places_of(options: argparse.Namespace, command: Command | None = None) -> dict[str, Any]:
    """Where configurations are looked for, as `Composer` takes it."""
    places: dict[str, Any] = {
        "conf": options.config_path,
        "config_dir": options.config_dir,
        "primary": options.config_name,
    }
    return places | ({"elsewhere": True} if command is not None and command.elsewhere else {})


def hydra_flags(options: argparse.Namespace) -> list[str]:
    """The options as Hydra's own command line takes them."""
    flags: list[str] = []
    for name in ("cfg", "package", "info", "config_dir", "config_path", "config_name"):
        if getattr(options, name, None) is not None:
            flags += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    for name in ("resolve", "run", "multirun", "shell_completion", "hydra_help"):
        if getattr(options, name, False):
            flags.append(f"--{name.replace('_', '-')}")
    if options.config_path is not None:
        flags[flags.index("--config-path") + 1] = str(Path(options.config_path).resolve())
    return flags


def value_of(overrides: Sequence[str], key: str) -> str | None:
    """The text after the last `key=`; None where there is none."""
    found = None
    for line in overrides:
        name, equals, value = line.partition("=")
        if equals and name.lstrip("+") == key:
            found = value
    return found


def resume_target(overrides: Sequence[str]) -> str | None:
    """The run directory of `resume=`; None where no run goes on."""
    value = value_of(overrides, "resume")
    if value is None or value.lower() in ("null", ""):
        return None
    return os.path.expanduser(value.strip("'\""))
