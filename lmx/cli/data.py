"""`lmx data prepare` and `lmx data inspect`."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def prepare(composed: Any, run_dir: Path) -> None:
    """Tokenises `data` into shards in the directory `to`."""
    from lmx.config.errors import Resumable, requests
    from lmx.config.text import counted
    from lmx.data import prepare as preparing

    config = composed.config
    directory = Path(config.to).expanduser()
    with requests():
        recipe = preparing.Recipe(
            config.data.source(),
            config.tokenizer.build(),
            config.data.document_boundary,
            config.data.invalid_utf8,
            config.shard_bytes,
            _choice_of_tokenizer(composed),
        )
        workers = preparing.default_workers() if config.workers is None else config.workers
        began = time.perf_counter()
        try:
            with _progress() as progress:
                index = preparing.prepare(recipe, directory, workers=workers, progress=progress)
        except KeyboardInterrupt:
            raise Resumable(
                f"interrupted; {directory} keeps what is done, and the same command goes on"
            ) from None
    seconds = time.perf_counter() - began
    if config.output == "json":
        print(json.dumps({"to": str(directory), "seconds": seconds, **index}))
        return
    print(
        f"{counted(index['tokens'], 'token')} of {counted(index['documents'], 'document')} "
        f"({counted(index['bytes'], 'byte')}) in {counted(len(index['shards']), 'shard')} "
        f"in {seconds:.1f} s: {directory}"
    )
    left_out = {name: index[name] for name in ("empty", "skipped", "replaced") if index[name]}
    if left_out:
        print("documents " + ", ".join(f"{name}: {count:,}" for name, count in left_out.items()))
    words = ["lmx", "train", "data=tokens", f"data.path={directory}", *_choice_of_tokenizer(composed)]
    print(f"next: {shlex.join(words)}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Takes parts done and parts in all: a bar on a terminal, a line every ten seconds elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not sys.stderr.isatty():
        said = time.perf_counter()

        def say(done: int, total: int) -> None:
            nonlocal said
            if time.perf_counter() - said >= 10:
                said = time.perf_counter()
                print(f"tokenising: {done} of {total} parts", file=sys.stderr, flush=True)

        yield say
        return
    columns = (TextColumn("tokenising"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _choice_of_tokenizer(composed: Any) -> tuple[str, ...]:
    """The overrides with which another command, wherever it runs, chooses this one's tokenizer."""
    from hydra.core.hydra_config import HydraConfig

    from lmx.config.overrides import write_value

    option = HydraConfig.get().runtime.choices["tokenizer"]
    keys = [
        o for o in composed.overrides if o.startswith("tokenizer.") and not o.startswith("tokenizer.path=")
    ]
    path = getattr(composed.config.tokenizer, "path", None)
    if path is not None:
        keys.append(f"tokenizer.path={write_value(os.path.abspath(os.path.expanduser(path)))}")
    return (f"tokenizer={option}", *keys)


def inspect(composed: Any, run_dir: Path) -> None:
    """Shows batches, packing and lengths."""
    from rich.console import Console

    from lmx.config.errors import requests

    config = composed.config
    with requests():
        from lmx.data import inspect as inspecting

        tokenizer = config.tokenizer.build()
        dataset = config.data.build(
            tokenizer,
            sequence_length=config.sequence_length,
            seed=config.seed,
            global_batch_size=config.global_batch_size,
        )
        report = inspecting.inspect(
            dataset,
            tokenizer,
            side=config.side,
            global_batch_size=config.global_batch_size,
            step=config.step,
            rows=config.rows,
            sample=config.sample,
        )
    if config.output == "json":
        print(json.dumps(report))
    else:
        plain = not config.colour or not sys.stdout.isatty() or "NO_COLOR" in os.environ
        inspecting.show(report, Console(no_color=plain))


COMMANDS = (
    Command(
        name="data prepare",
        summary="tokenise text into shards",
        schema="lmx.data:Preparation",
        function=prepare,
        keys=("data.path", "to", "tokenizer.path", "workers", "shard_bytes", "output"),
        examples=(
            ("lmx data prepare data.path='texts/**/*.txt' to=shards", "text files, as bytes"),
            (
                "lmx data prepare data=jsonl data.path=corpus.jsonl tokenizer=gpt2 to=shards",
                "JSON lines, in GPT-2's tokens",
            ),
            ("lmx train data=tokens data.path=shards tokenizer=gpt2", "train on the result"),
        ),
    ),
    Command(
        name="data inspect",
        summary="show batches as training sees them",
        schema="lmx.data:Inspection",
        function=inspect,
        keys=("data.path", "side", "step", "rows", "sequence_length", "global_batch_size", "output"),
        examples=(
            ("lmx data inspect", "the default data"),
            ("lmx data inspect data=text data.path=book.txt data.packing=concat", "your own text, packed"),
            ("lmx data inspect side=eval rows=1 output=json", "for programs"),
        ),
    ),
)
