"""`lmx eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run(composed: Any, run_dir: Path) -> float:
    """Prints loss, perplexity and bits per byte; returns the loss."""
    from lmx.run.evaluate import evaluate

    return evaluate(composed, run_dir)


COMMANDS = (
    Command(
        name="eval",
        summary="loss, perplexity and bits per byte of a checkpoint",
        schema="lmx.run.infer_config:EvalConfig",
        function=run,
        positional="from",
        keys=(
            *("from", "which", "weights", "dtype"),
            *("data.path", "split", "sequence_length", "stride", "batch_size", "sequences"),
            *("tasks", "include_path", "limit", "fewshot", "max_new_tokens", "output"),
        ),
        examples=(
            ("lmx eval from=runs/RUN", "on the evaluation split of the run's own data"),
            ("lmx eval from=runs/RUN which=best", "the best checkpoint instead of the last"),
            ("lmx eval from=runs/RUN data=text data.path=book.txt", "on other text, the whole of it"),
            ("lmx eval from=runs/RUN sequences=256 batch_size=32", "on a part of it"),
            ("lmx eval from=runs/RUN stride=128", "overlapping windows: more context for each token"),
            ("lmx eval from=DIR tasks=[gsm8k] limit=50", "a task of lm-evaluation-harness"),
            ("lmx eval from=DIR tasks=[mine] include_path=tasks", "a task of one's own, tasks/mine.yaml"),
            ("lmx eval from=runs/RUN output=json", "one JSON document"),
        ),
    ),
)
