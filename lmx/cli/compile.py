"""`lmx compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run(composed: Any, run_dir: Path) -> float:
    """Compiles, reports; returns the bytes of a device that the largest program needs."""
    from lmx.run.topology import quiet_compiler

    quiet_compiler()
    from lmx.run.compile_report import compile_and_report

    return compile_and_report(composed.config)


COMMANDS = (
    Command(
        name="compile",
        summary="compile for devices that are not here, and show what programs take",
        schema="lmx.run.compile_config:Compile",
        function=run,
        keys=(
            "topology",
            "slices",
            "programs",
            "decode.batch",
            "decode.length",
            "fixes",
            "report_cache",
            "model.remat",
            "trainer.global_batch_size",
            "trainer.sequence_length",
            "trainer.accumulation",
            "trainer.compute_dtype",
            "output",
        ),
        examples=(
            (
                "lmx compile model=llama3_8b mesh=fsdp topology=v5p:2x2x2 trainer.global_batch_size=32",
                "the training step of Llama 3 8B for eight v5p chips: memory by tensor, bytes between chips",
            ),
            (
                "lmx compile experiment=quickstart topology=v6e:16x16 mesh=fsdp slices=2 trainer.global_batch_size=512",
                "two slices",
            ),
            (
                "lmx compile topology=v5e:2x2 mesh=fsdp 'programs=[train,eval,decode]'",
                "evaluation and decoding too",
            ),
            ("lmx compile topology=cpu:8 mesh=fsdp output=json", "the program that a CPU would run; as JSON"),
        ),
        literal=("trainer.sample.prompt",),
        implied=(("model.init_from", "model=pretrained"), ("model.init_from", "tokenizer=pretrained")),
    ),
)
