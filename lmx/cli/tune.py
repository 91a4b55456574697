"""`lmx tune memory`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run(composed: Any, run_dir: Path) -> float:
    """Searches, and prints the Pareto front; returns its smallest peak."""
    from lmx.run.topology import quiet_compiler

    quiet_compiler()
    from lmx.run.tune_memory import tune_memory

    return tune_memory(composed.config)


COMMANDS = (
    Command(
        name="tune memory",
        summary="find the micro-batch and rematerialisation that fit a device",
        schema="lmx.run.compile_config:TuneMemory",
        function=run,
        keys=(
            "topology",
            "slices",
            "search.accumulation",
            "search.remat",
            "search.headroom",
            "search.most",
            "report_cache",
            "trainer.global_batch_size",
            "trainer.sequence_length",
            "output",
        ),
        examples=(
            (
                "lmx tune memory model=llama3p2_1b mesh=fsdp topology=v5e:4x4 trainer.global_batch_size=128",
                "memory against recomputed FLOPs, as overrides to paste",
            ),
            ("lmx tune memory topology=v5e:2x2 mesh=fsdp 'search.remat=[none,full]' output=json", "as JSON"),
        ),
        literal=("trainer.sample.prompt",),
        implied=(("model.init_from", "model=pretrained"), ("model.init_from", "tokenizer=pretrained")),
    ),
)
