"""`lmx export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run(composed: Any, run_dir: Path) -> None:
    """Writes the directory."""
    from lmx.run.export import export

    export(composed, run_dir)


COMMANDS = (
    Command(
        name="export",
        summary="write a model as a HuggingFace directory",
        schema="lmx.run.export_config:ExportConfig",
        function=run,
        positional="from",
        keys=("from", "to", "which", "weights", "dtype", "shard_bytes", "output"),
        examples=(
            ("lmx export from=runs/RUN to=DIR", "config.json, safetensors, tokenizer: transformers loads it"),
            (
                "lmx export from=runs/RUN which=best to=DIR dtype=bfloat16",
                "the best checkpoint, at half the size",
            ),
        ),
    ),
)
