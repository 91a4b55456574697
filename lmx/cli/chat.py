"""`lmx chat`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run(composed: Any, run_dir: Path) -> None:
    """Talks until /quit or the end of the input."""
    from lmx.run.chat import chat

    chat(composed, run_dir)


COMMANDS = (
    Command(
        name="chat",
        summary="a conversation in the terminal",
        schema="lmx.run.infer_config:ChatConfig",
        function=run,
        positional="from",
        literal=("system",),
        keys=(
            *("from", "system", "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "stop", "seed"),
            *("tools", "chat_template_kwargs"),
        ),
        examples=(
            ("lmx chat from=DIR", "talk to a model of a HuggingFace directory, by its chat template"),
            ("lmx chat from=DIR system='You answer in one sentence.'", "with a system message"),
            ("lmx chat from=runs/RUN temperature=0.5 max_new_tokens=100", "a run's model, as plain text"),
            ("echo 'Why is the sky blue?' | lmx chat from=DIR", "one question from another program"),
        ),
    ),
)
