"""Help pages: the front page, and a page for each command with its groups, options, keys and examples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from lmx.cli.command import Command
from lmx.cli.page import Section, render
from lmx.config.errors import RequestError
from lmx.config.text import counted

MANY = 20
"""Options of a group from which on the page of a command lists their names alone."""


def front_page(commands: Mapping[str, Any], family: str | None = None) -> str:
    """`lmx --help`, or `lmx FAMILY --help` of the commands that begin with one word."""
    return render(
        "lmx: experiments with language models"
        if family is None
        else f"lmx {family}: {counted(len(commands), 'command')}",
        "lmx COMMAND [key=value ...]",
        [
            Section("Commands", [(name, entry.summary) for name, entry in commands.items()]),
            Section(
                "With every command",
                [
                    ("--help", "groups, options, keys and examples of the command; --help GROUP: one group"),
                    ("group=option", "choose one of the files in conf/GROUP"),
                    ("key=value", "set a value, such as trainer.steps=2k"),
                    ("--cfg job --resolve", "show the configuration instead of running it"),
                    ("-m", "run every combination of values written a,b,c"),
                    ("--config-dir DIR", "add a folder of your own configuration files"),
                ],
            ),
            Section("Completion in the shell", [('eval "$(lmx --completion bash)"', "also zsh, fish")]),
        ],
    )


def command_page(command: Command, arguments: Sequence[str] = ()) -> str:
    """`lmx COMMAND --help`, or `lmx COMMAND --help GROUP` for the options of one group; RequestError: there is none."""
    from lmx.config.files import conf_dir

    folders = [conf_dir()]
    for flag, value in pairwise(arguments):
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value))
        if flag in ("--config-path", "-cp"):
            folders[0] = Path(value)
    primary = folders[0] / f"{command.primary}.yaml"
    chosen = choices(primary)
    asked = {group: chosen[group] for group in arguments if group in chosen}
    named = [word for flag, word in pairwise(arguments) if flag in ("-h", "--help")]
    if chosen and any(re.fullmatch(r"[a-z_]+", word) and word not in chosen for word in named):
        raise RequestError(f"--help {named[0]}: there is no such group; there are {', '.join(chosen)}")
    if asked:
        section = Section("Options (* is chosen unless you say otherwise)", _groups(folders, asked))
        title, usage = (
            f"lmx {command.name}: {', '.join(asked)}",
            f"lmx {command.name} {next(iter(asked))}=OPTION",
        )
        return render(title, usage, [section])
    sections = [Section("Examples", list(command.examples))] if command.examples else []
    if chosen:
        sections.append(
            Section(
                "Groups and their options (* is chosen unless you say otherwise)",
                _groups(folders, chosen, command.name),
            )
        )
    keys = _keys(command, folders[0], primary, chosen)
    if keys:
        sections.append(Section("Keys most often set", keys))
    sections.append(
        Section(
            "Options",
            [
                ("--cfg job [--resolve]", "show the configuration; --package model shows a part"),
                ("-m, --multirun", "run every combination of values written a,b,c"),
                ("--config-dir DIR", "add a folder of your own configuration files"),
                ("--help GROUP", "what the options of one group are"),
                *([("hydra.run.dir=DIR", "put the run there")] if _makes_runs(primary) else []),
                ("--info defaults", "the files that make the configuration, in order"),
            ],
        )
    )
    title = f"lmx {command.name}: {command.summary}"
    closing = [f"All keys, with their values: lmx {command.name} --cfg job"]
    return render(title, f"lmx {command.name} [group=option ...] [key=value ...]", sections, closing)


def _makes_runs(primary: Path) -> bool:
    content = yaml.safe_load(primary.read_text(encoding="utf-8")) if primary.is_file() else None
    return "hydra/lmx" in (content or {}).get("defaults", [])


def choices(primary: Path) -> dict[str, str | None]:
    """Group -> option, in the order of the primary configuration's defaults list."""
    if not primary.is_file():
        return {}
    content = yaml.safe_load(primary.read_text(encoding="utf-8")) or {}
    found: dict[str, str | None] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, dict):
            for group, option in entry.items():
                if not str(group).startswith(("override ", "hydra/")):
                    found[str(group).split(" ")[-1].lstrip("/").split("@")[0]] = option
    return found


def _groups(
    folders: Sequence[Path], chosen: Mapping[str, str | None], brief: str | None = None
) -> list[tuple[str, str]]:
    """A row an option. `brief`: the command on whose page large groups are lists of names alone."""
    from lmx.config.files import description_of_file

    rows: list[tuple[str, str]] = []
    for group, default in chosen.items():
        files: dict[str, Path] = {}
        for folder in folders:
            for path in sorted((folder / group).glob("[!_]*.yaml")):
                files.setdefault(path.stem, path)
        rows.append((group, "" if files else "(no options yet)"))
        ordered = sorted(files, key=lambda name: (name != default, name))
        if brief and len(ordered) > MANY:
            if default in files:
                first = ordered.pop(0)
                rows.append((f"  * {first}", description_of_file(files[first])))
            told = f"{', '.join(ordered)} (described by: lmx {brief} --help {group})"
            rows.append((f"    {len(ordered)} {'more' if default in files else 'options'}", told))
            continue
        for name in ordered:
            rows.append((f"  {'*' if name == default else ' '} {name}", description_of_file(files[name])))
    return rows


def _keys(
    command: Command, folder: Path, primary: Path, chosen: Mapping[str, str | None]
) -> list[tuple[str, str]]:
    """The command's most useful keys: meaning from the classes, value from the files chosen by default."""
    from lmx.config.schema import description_of, pick

    tree: dict[str, Any] = (
        yaml.safe_load(primary.read_text(encoding="utf-8")) or {} if primary.is_file() else {}
    )
    for group, option in chosen.items():
        path = folder / group / f"{option}.yaml"
        if option and path.is_file():
            tree[group] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    schema = command.schema_class()
    rows = []
    for key in command.keys:
        from lmx.config.errors import UNSET, show_value

        value = pick(tree, key)
        meaning = description_of(schema, key, tree)
        if meaning or value is not UNSET:
            shown = f" [{show_value(value)}]" if value is not UNSET else ""
            rows.append((key, f"{meaning}{shown}"))
    return rows
