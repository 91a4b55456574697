"""`lmx review`, `lmx review approve` and `lmx diff`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from lmx.cli.command import Command

OWN = (
    *(
        "topology",
        "slices",
        "against",
        "tier",
        "gates",
        "price",
        "history",
        "sweep",
        "check",
        "write",
        "names",
    ),
    *("experiments", "report_cache", "output", "by"),
)
"""Keys of `lmx review` that `lmx train` has not, and the one that is another there."""


def _show(doc: dict[str, Any], output: str) -> None:
    from lmx.review.page_html import html
    from lmx.review.page_rich import print_rich
    from lmx.review.page_text import markdown

    if output == "auto":
        output = "rich" if sys.stdout.isatty() else "markdown"
    if output == "json":
        from lmx.io.files import to_json

        print(to_json(doc, indent=2))
    elif output == "html":
        print(html(doc), end="")
    elif output == "rich":
        print_rich(doc)
    else:
        print(markdown(doc), end="")


def _extendable() -> tuple[str, ...]:
    from lmx.cli.commands import command

    return command("train").extendable


def _train_words(overrides: list[str]) -> list[str]:
    """The overrides that `lmx train` would take."""
    import re

    first = lambda word: re.split(r"[./@=]", word.lstrip("+~"))[0]
    return [word for word in overrides if first(word) not in OWN]


def run(composed: Any, run_dir: Path) -> None:
    """Reviews one configuration; or a sweep; or checks or renews the goldens."""
    from lmx.config.errors import requests
    from lmx.run.goldens import golden_side
    from lmx.run.review import Asked, document
    from lmx.run.sides import Side, composed_side, composer, short_origins, side

    config = composed.config
    if config.check or config.write:
        _goldens(config)
        return
    words = _train_words(composed.overrides)
    if config.tier == "compiled":
        from lmx.run.topology import quiet_compiler

        quiet_compiler()
    asked = Asked(
        config.topology,
        config.slices,
        config.price,
        config.gates,
        config.history.root,
        config.history.most,
        config.history.shown,
        _extendable(),
    )
    if config.sweep is not None:
        _sweep(config, words, asked)
        return
    new = Side(config.name, composed.tree, short_origins(composed.origins))
    with requests():
        if config.against is None:
            old = composed_side(composer(), [], "the defaults")
        elif config.against == "golden":
            old = golden_side(Path(config.experiments), words, composer())
        else:
            old = side(config.against, overrides=words, key="against")
        doc = document(old, new, config, asked)
        if config.tier == "compiled":
            from lmx.run.compiled_tier import add_compiled

            add_compiled(doc, config, new.origins)
    _show(doc, config.output)


def _sweep(config: Any, words: list[str], asked: Any) -> None:
    """The preflight of a sweep."""
    from functools import partial

    from lmx.config.errors import requests
    from lmx.io.files import to_json
    from lmx.review.page_rich import rich_of
    from lmx.review.page_text import markdown_of
    from lmx.run.compiled_tier import compiled
    from lmx.run.sweep_review import preflight, sections

    more = shlex.split(config.sweep)
    say = lambda text: print(f"lmx review: {text}", file=sys.stderr)
    look = partial(compiled, asked=config) if config.tier == "compiled" else None
    with requests():
        doc = preflight([*words, *more], asked, compiled=look, say=say)
    if config.output == "json":
        print(to_json(doc, indent=2))
        return
    if config.output == "html":
        from lmx.review.page_html import html_of

        print(html_of(f"Sweep of {config.name}", " ".join(more), sections(doc)), end="")
        return
    show = rich_of if config.output == "rich" or (config.output == "auto" and sys.stdout.isatty()) else None
    heading, below = f"Sweep of {config.name}", " ".join(more)
    if show is not None:
        show(heading, below, sections(doc))
    else:
        print(markdown_of(heading, below, sections(doc)), end="")


def _goldens(config: Any) -> None:
    """Checks or renews goldens; LmxError where one differs."""
    from lmx.config.errors import LmxError, requests
    from lmx.run import goldens

    folder = Path(config.experiments)
    with requests():
        if config.write:
            for path in goldens.write(folder, config.names):
                print(path)
            return
        found = goldens.check(folder, config.names)
    lines = []
    for one in found:
        print(f"{one.name}: {'as its golden' if not one.lines else 'differs'}")
        for line in one.lines:
            print(f"    {line}")
        if one.lines:
            lines.append(one.name)
    if not found:
        raise LmxError(f"experiments={folder}: no experiment has a golden there")
    if lines:
        raise LmxError(
            f"{len(lines)} of {len(found)} experiments are not as their goldens; where that is meant:\n"
            f"    lmx review --write 'names=[{','.join(lines)}]'"
        )


def approve(composed: Any, run_dir: Path) -> None:
    """Records an approval in the experiment's folder."""
    from lmx.config.errors import requests
    from lmx.run.approval import approve as record
    from lmx.run.review import Asked, follow
    from lmx.run.sweep_review import points_of

    config = composed.config
    with requests():
        asked = Asked(config.topology, config.slices, None, {}, (), 0, 1, ())
        topology = str(follow(config, asked, None).outline.target)
        words = _train_words(composed.overrides)
        more = shlex.split(config.sweep or "")
        points = [p.composed.tree for p in points_of([*words, *more])] if more else []
        folder = Path(config.experiments)
        entry = record(folder, config.name, composed.tree, points, topology=topology, by=config.by)
    around = f", and {len(points)} points of a sweep" if points else ""
    print(f"{config.name} on {topology}: {entry['config']} approved by {entry['by']}{around}")


def diff(composed: Any, run_dir: Path) -> None:
    """What differs between two configurations, and what follows."""
    from lmx.config.errors import ConfigError, Problem, requests
    from lmx.config.validate import validate
    from lmx.run.config import TrainConfig
    from lmx.run.review import Asked, document, train_tree
    from lmx.run.sides import side

    config = composed.config
    looked = config.history
    asked = Asked(
        config.topology,
        config.slices,
        config.price,
        {},
        looked.root,
        looked.most,
        looked.shown,
        _extendable(),
    )
    with requests():
        old, new = side(config.old, key="old"), side(config.new, key="new")
        checked = validate(TrainConfig, train_tree(new.tree))
        if checked.config is None:
            problems = checked.problems or [Problem("new", "does not hold", config.new)]
            raise ConfigError(problems, "diff")
        doc = document(old, new, checked.config, asked)
    kept = (
        "name",
        "against",
        "target",
        "changes",
        "consequences",
        "against_consequences",
        "against_target",
        "against_problem",
    )
    kept = (*kept, "differences", "derived", "memory", "step_time_basis", "bound", "price")
    _show({key: doc[key] for key in kept}, config.output)


COMMANDS = (
    Command(
        name="review",
        summary="what a configuration will do and cost, and what a change of it changes",
        schema="lmx.run.review_config:Review",
        function=run,
        keys=(
            *("topology", "slices", "against", "tier", "sweep", "price", "gates", "history.root"),
            *("names", "output", "trainer.steps", "trainer.global_batch_size"),
        ),
        examples=(
            ("lmx review experiment=llama3_8b_v5p", "on a laptop, for the pod that its mesh is made for"),
            ("lmx review model=llama3_70b mesh=fsdp topology=v5p:8x8x16", "a thousand chips"),
            ("lmx review experiment=quickstart against=HEAD~3", "what three commits changed about it"),
            ("lmx review experiment=quickstart against=runs/RUN output=json", "beside a run; for programs"),
            ("lmx review --check", "every experiment beside its golden, as in CI"),
            ("lmx review --write names=[quickstart]", "renew a golden"),
            (
                "lmx review experiment=quickstart sweep=optimizer.learning_rate=1e-3,3e-3",
                "a sweep before it is run: what fits, in which order, at what cost",
            ),
        ),
        literal=("trainer.sample.prompt", "sweep", "against"),
        flags=(("--check", "check=true"), ("--write", "write=true")),
        elsewhere=True,
    ),
    Command(
        name="review approve",
        summary="record who has agreed to a run: large launches ask for it",
        schema="lmx.run.review_config:Approve",
        function=approve,
        keys=("topology", "slices", "sweep", "by", "experiments"),
        examples=(
            ("lmx review approve experiment=llama3_8b_v5p", "this run, this code, this topology"),
            (
                "lmx review approve experiment=llama3_8b_v5p sweep=optimizer.learning_rate=1e-4,3e-4",
                "and these points around it",
            ),
        ),
        literal=("trainer.sample.prompt", "sweep"),
        elsewhere=True,
    ),
    Command(
        name="diff",
        summary="what differs between two configurations, and what follows from it",
        schema="lmx.run.review_config:Diff",
        function=diff,
        keys=("topology", "slices", "price", "history.root", "output"),
        examples=(
            ("lmx diff quickstart shakespeare_cpu", "two experiments"),
            ("lmx diff HEAD~1:quickstart quickstart", "one, as it was and as it is"),
            ("lmx diff runs/A runs/B output=json", "two runs; for programs"),
        ),
        positional=("old", "new"),
    ),
)
