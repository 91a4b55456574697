"""`dry_run=true`: every command and file of a launch, as they would be, without starting anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lmx.launch.host import show
from lmx.launch.plan import load_target
from lmx.launch.target import Plan, Step


def steps_of(
    tree: Mapping[str, Any], target: Mapping[str, Any], *, run_dir: Path, scratch: Path
) -> list[Step]:
    """What the launch of `tree` on `target` would do. `scratch` is an empty folder for the meantime."""
    from lmx.io.files import write_atomic
    from lmx.launch.code import snapshot

    built = load_target(target)
    built.check_request()
    text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=110)
    folder = (run_dir / "launch").absolute()
    code = None
    if built.takes_snapshot():
        code = snapshot(Path.cwd(), scratch / "code.tar").hash
        built.check_code(scratch / "code.tar")
    write_atomic(scratch / "config.yaml", text)
    plan = Plan(run_dir.name, folder, built.run_dir(run_dir), {}, code, text)
    return [Step(file=str(plan.config), input=text), *built.steps(plan)]


def as_text(steps: Sequence[Step]) -> str:
    """The steps for a person; a file and standard input are shown whole."""
    lines: list[str] = []
    for step in steps:
        if step.argv:
            lines.append(f"# {step.where}")
            lines.append(f"$ {show(step.argv)}")
            lines += [f"  < {line}" for line in step.input.splitlines()]
        else:
            lines.append(f"# file {step.file}")
            lines += [f"  | {line}" for line in step.input.splitlines()]
        lines.append("")
    return "\n".join(lines)
