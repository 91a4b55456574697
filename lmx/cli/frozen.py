"""`lmx train --frozen CONFIG`: exactly the resolved configuration of a file, whatever the YAML files say by now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lmx.cli.command import Command
from lmx.cli.report import report
from lmx.config.errors import DONE, ConfigError, Problem, RequestError

USAGE = "lmx train --frozen CONFIG hydra.run.dir=DIR [--resume]"


def run_frozen(command: Command, arguments: Sequence[str]) -> int:
    """Runs `command` on a frozen configuration, without Hydra; the exit code.

    `--resume` goes on from the newest checkpoint in DIR. Nothing else may be set: the file is the whole request.
    """
    if command.name != "train":
        raise RequestError(f"--frozen belongs to lmx train, not to lmx {command.name}")
    path, run_dir, resume = _parse(arguments)
    composed = load_frozen(path, command)
    if resume:
        config = composed.config.model_copy(update={"resume": str(run_dir)})
        composed = type(composed)(
            config, {**composed.tree, "resume": str(run_dir)}, [], composed.schema, composed.find_origins
        )
    try:
        command.function(composed, run_dir)
    except BrokenPipeError:
        raise
    except Exception as error:
        return report(command.name, error, run_dir)[0]
    return DONE


def _parse(arguments: Sequence[str]) -> tuple[Path, Path, bool]:
    words = list(arguments)
    resume = "--resume" in words
    words = [word for word in words if word != "--resume"]
    at = words.index("--frozen")
    if at + 1 == len(words):
        raise RequestError(f"--frozen needs the file of a configuration: {USAGE}")
    path = Path(words[at + 1])
    rest = words[:at] + words[at + 2 :]
    folders = [word.partition("=")[2] for word in rest if word.startswith("hydra.run.dir=")]
    others = [word for word in rest if not word.startswith("hydra.run.dir=")]
    if others:
        raise RequestError(
            f"{' '.join(others)}: a frozen configuration is not changed; run it as {USAGE}, or compose a new one by "
            "lmx train without --frozen"
        )
    if not folders or not folders[-1]:
        raise RequestError(f"--frozen needs the run's directory too: {USAGE}")
    return path, Path(folders[-1]).expanduser(), resume


def load_frozen(path: Path, command: Command) -> Any:
    """The validated configuration of a file; ConfigError with every problem, RequestError where it cannot be read."""
    from lmx.config.compose import Composed
    from lmx.config.earlier import read_frozen
    from lmx.config.origins import file_origins, origin_of
    from lmx.config.plain_tree import plain
    from lmx.config.validate import contradictions, faults, validate

    schema = command.schema_class()
    try:
        tree = read_frozen(path, schema)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(f"--frozen {path}: this configuration cannot be read: {reason}") from error
    checked = validate(schema, tree)
    problems: list[Problem] = list(checked.problems)
    if checked.config is not None:
        problems += contradictions(checked.config)
    problems += faults(schema, tree)
    if problems or checked.config is None:
        origins = file_origins(path)
        raise ConfigError([p.with_origin(origin_of(origins, p.key)) for p in problems], command.name)
    beside = path.with_name("overrides.yaml")  # what made it, where whoever froze it wrote that down
    overrides = yaml.safe_load(beside.read_text(encoding="utf-8")) if beside.is_file() else []
    return Composed(
        checked.config, plain(checked.config, tree), overrides, schema, lambda: file_origins(path)
    )
