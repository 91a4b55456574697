"""`lmx generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run(composed: Any, run_dir: Path) -> None:
    """Prints continuations."""
    from lmx.run.generate import generate

    generate(composed, run_dir)


COMMANDS = (
    Command(
        name="generate",
        summary="continue prompts with a checkpoint",
        schema="lmx.run.infer_config:GenerateConfig",
        function=run,
        keys=(
            "from",
            "prompt",
            "prompts_file",
            "max_new_tokens",
            "temperature",
            "top_k",
            "top_p",
            "seed",
            "output",
        ),
        examples=(
            ("lmx generate from=runs/RUN prompt='def '", "go on from a text"),
            ("lmx generate from=runs/RUN prompt='import ' temperature=0", "the most probable continuation"),
            ("lmx generate from=runs/RUN which=best prompts_file=prompts.txt", "a prompt a line"),
            ("lmx generate from=runs/RUN prompt_tokens=[10,20,30] output=json", "ids in, JSON out"),
            ("lmx generate from=runs/RUN/checkpoints/200 prompt='class ' top_k=20", "an earlier checkpoint"),
        ),
    ),
)
