"""`lmx launch`, and `lmx launch status | logs | stop | attach | resume`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from lmx.cli.command import Command

OWN = ("target", "launch", "approval", "dry_run")


def run(composed: Any, run_dir: Path) -> None:
    """Freezes a run and starts it on its target; follows it to its end, or returns at once."""
    from lmx.config.errors import requests
    from lmx.io.files import to_json
    from lmx.launch.plan import Policy, freeze

    config = composed.config
    care = config.launch.model_dump()
    detach = care.pop("detach")
    folder = run_dir / "launch"
    tree = {key: value for key, value in composed.tree.items() if key not in OWN}
    hash_ = _hash(tree)
    with requests():
        try:
            _approved(composed, tree)
        except Exception:
            if run_dir.is_dir() and not any(run_dir.iterdir()):
                run_dir.rmdir()
            raise
        if config.dry_run:
            _dry_run(composed, run_dir, tree)
            return
        fresh = not (folder / "plan.json").exists()
        try:
            launch = freeze(
                tree,
                folder=folder,
                run_dir=run_dir,
                target=composed.tree["target"],
                policy=Policy(**care),
                environment={},
                hash_=hash_,
            )
            launch.target.check(launch.plan)
        except Exception:
            if fresh:
                _remove(folder)
            raise
    print(f"lmx launch: {run_dir}", file=sys.stderr, flush=True)
    if detach:
        _detached(folder)
        print(to_json({"run": str(run_dir)}) if config.output == "json" else str(run_dir))
        return
    _drive(folder)


def _detached(folder: Path) -> None:
    with open(folder / "driver.log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "lmx", "launch", "attach", str(folder.parent)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _approved(composed: Any, tree: dict[str, Any]) -> None:
    """RequestError for a run on many chips that no review has approved; a dry run only says so."""
    from lmx.config.errors import RequestError
    from lmx.run.launch_config import chips_of

    config = composed.config
    most = config.approval.above_chips
    if most is None or chips_of(config) <= most:
        return
    from lmx.run.approval import require

    words = [
        word
        for word in composed.overrides
        if re.split(r"[.=]", word.lstrip("+~"))[0] not in (*OWN, "hydra", "output")
    ]
    try:
        entry = require(Path(config.approval.experiments), config.name, tree, None, words=words)
    except RequestError as error:
        if not config.dry_run:
            raise
        print(f"lmx launch: without dry_run=true this is refused: {error}", file=sys.stderr)
        return
    print(f"lmx launch: approved by {entry['by']} at {entry['at']}", file=sys.stderr)


def _hash(tree: dict[str, Any]) -> str:
    from lmx.config.plain_tree import tree_hash
    from lmx.run.config import TrainConfig

    return tree_hash(tree, TrainConfig)


def _drive(folder: Path) -> None:
    import signal

    from lmx.launch.drive import Interrupted, raise_for, to_stderr
    from lmx.launch.look import attach
    from lmx.launch.plan import load
    from lmx.launch.target import log_file, read

    def end(*_: object) -> None:
        raise Interrupted

    def show(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    before = signal.signal(signal.SIGTERM, end)
    try:
        launch = load(folder)
        ended = attach(launch, say=to_stderr, show=show)
    except Interrupted:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, before)
    raise_for(ended, str(folder.parent))
    result = log_file(launch.plan, read(launch.plan)[-1].number, 0, "out")
    if result.exists():
        print(result.read_text(encoding="utf-8", errors="replace"), end="")


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def _dry_run(composed: Any, run_dir: Path, tree: dict[str, Any]) -> None:
    import tempfile

    from lmx.launch.dry import as_text, steps_of

    try:
        with tempfile.TemporaryDirectory() as temporary:
            steps = steps_of(tree, composed.tree["target"], run_dir=run_dir, scratch=Path(temporary))
    finally:
        if run_dir.is_dir() and not any(run_dir.iterdir()):
            run_dir.rmdir()
    if composed.config.output == "json":
        from lmx.io.files import to_json

        print(to_json([step._asdict() for step in steps], indent=1))
    else:
        print(as_text(steps))


def status(composed: Any, run_dir: Path) -> None:
    """Shows one run, or all."""
    from lmx.io.files import to_json
    from lmx.launch import look
    from lmx.launch.plan import find

    config = composed.config
    if config.run is not None:
        folders = [find(config.run, config.root)]
    else:
        folders = sorted(path.parent for path in Path(config.root).glob("*/launch/plan.json"))
    found = [look.status(folder) for folder in folders]
    if config.output == "json":
        print(to_json(found, indent=1))
    else:
        print("\n".join(map(look.as_text, found)) or f"no launched runs in {config.root}")


def logs(composed: Any, run_dir: Path) -> None:
    """Prints a log."""
    from lmx.launch import look
    from lmx.launch.plan import find

    c = composed.config
    print(
        look.logs(find(c.run, c.root), process=c.process, attempt=c.attempt, lines=c.lines),
        end="",
        flush=True,
    )


def stop(composed: Any, run_dir: Path) -> None:
    """Ends a run."""
    from lmx.launch import look
    from lmx.launch.plan import find

    config = composed.config
    print(look.stop(find(config.run, config.root), grace=config.grace))


def attach(composed: Any, run_dir: Path) -> None:
    """Follows a run to its end."""
    from lmx.launch.plan import find

    _drive(find(composed.config.run, composed.config.root))


def resume(composed: Any, run_dir: Path) -> None:
    """Goes on with a run that was stopped or given up."""
    from lmx.launch.plan import find, load
    from lmx.launch.record import reopen
    from lmx.launch.versions import forget

    folder = find(composed.config.run, composed.config.root)
    launch = load(folder)
    if composed.config.changed_versions == "accept":
        forget(folder)
    launch.target.check(launch.plan)
    reopen(folder)
    if composed.config.detach:
        _detached(folder)
        print(folder.parent)
    else:
        _drive(folder)


COMMANDS = (
    Command(
        name="launch",
        summary="start a run on one or many hosts, and look after it",
        schema="lmx.run.launch_config:LaunchConfig",
        function=run,
        keys=(
            "launch.max_failures",
            "launch.max_preemptions",
            "launch.grace",
            "launch.detach",
            "dry_run",
            "trainer.steps",
            "checkpoint.every",
            "output",
        ),
        examples=(
            (
                "lmx launch target.processes=2 target.devices=2 mesh=fsdp",
                "two processes here, two virtual devices each",
            ),
            (
                "lmx launch target=ssh target.hosts=[a,b] mesh=fsdp dry_run=true",
                "what would be done, command by command",
            ),
            (
                "lmx launch target=ssh target.hosts_file=hosts.txt launch.detach=true",
                "on hosts of a file, in the background",
            ),
        ),
        literal=("trainer.sample.prompt",),
        implied=(("model.init_from", "model=pretrained"), ("model.init_from", "tokenizer=pretrained")),
    ),
    Command(
        name="launch status",
        summary="what launched runs do",
        schema="lmx.run.launch_config:LaunchStatus",
        function=status,
        keys=("run", "root", "output"),
        examples=(("lmx launch status", "all"), ("lmx launch status RUN output=json", "one, for programs")),
        positional="run",
    ),
    Command(
        name="launch logs",
        summary="the log of a process of a launched run",
        schema="lmx.run.launch_config:LaunchLogs",
        function=logs,
        keys=("run", "root", "process", "attempt", "lines"),
        examples=(("lmx launch logs RUN process=3 lines=50", "the last 50 lines of process 3"),),
        positional="run",
    ),
    Command(
        name="launch stop",
        summary="end a launched run",
        schema="lmx.run.launch_config:LaunchStop",
        function=stop,
        keys=("run", "root", "grace"),
        examples=(("lmx launch stop RUN", "its processes alone"),),
        positional="run",
    ),
    Command(
        name="launch attach",
        summary="follow a launched run, look after it where nobody does",
        schema="lmx.run.launch_config:LaunchAttach",
        function=attach,
        keys=("run", "root"),
        examples=(("lmx launch attach RUN", "after the terminal was closed"),),
        positional="run",
    ),
    Command(
        name="launch resume",
        summary="go on with a launched run that was stopped or given up",
        schema="lmx.run.launch_config:LaunchResume",
        function=resume,
        keys=("run", "root", "detach"),
        examples=(("lmx launch resume RUN", "from its newest checkpoint, with budgets as new"),),
        positional="run",
    ),
)
