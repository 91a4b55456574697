"""`lmx review`, `lmx review approve` and `lmx diff`."""

from __future__ import annotations

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
    *("experiments", "report_cache", "output"),
)
"""Keys of `lmx review` that `lmx train` has not, and the one that is another there."""


def _show(doc: dict[str, Any], output: str) -> None:
    from lmx.review.page_html import html
    from lmx.review.page_text import markdown, print_rich

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
    from lmx.run.review import Asked, document
    from lmx.run.sides import Side, composed_side, composer, short_origins, side

    config = composed.config
    words = _train_words(composed.overrides)
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
    new = Side(config.name, composed.tree, short_origins(composed.origins))
    with requests():
        if config.against is None:
            old = composed_side(composer(), [], "the defaults")
        else:
            old = side(config.against, overrides=words, key="against")
        doc = document(old, new, config, asked)
    _show(doc, config.output)


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
                "lmx review experiment=quickstart sweep=[optimizer.learning_rate=1e-3,3e-3]",
                "a sweep before it is run: what fits, in which order, at what cost",
            ),
        ),
        literal=("trainer.sample.prompt",),
        flags=(("--check", "check=true"), ("--write", "write=true")),
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
