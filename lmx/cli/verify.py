"""`lmx verify mesh`, `resume`, `faults`, `soak`, `width`: proofs, told as text or JSON, and judged by a check."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run_proof(verify: str, text: str) -> Callable[[Any, Path], float]:
    """What a command does, its modules imported when it runs.

    verify  `module:function` that gives the result; a `check` beside it raises where something is not as it should be
    text    the module whose `as_text` tells of the result
    """

    def function(composed: Any, run_dir: Path) -> float:
        module, name = verify.split(":")
        proof = import_module(module)
        with _ended_as_by_hand():
            result = getattr(proof, name)(composed)
        if composed.config.output == "json":
            print(json.dumps(result), flush=True)
        else:
            print(import_module(text).as_text(result), flush=True)
        proof.check(result)
        return 0.0

    return function


@contextmanager
def _ended_as_by_hand() -> Iterator[None]:
    """SIGTERM ends a proof as Ctrl-C does: the runs that it has started end with it."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_width(composed: Any, run_dir: Path) -> float:
    """Compares widths; returns how many activations change more in wider models."""
    from lmx.run.width import as_json, as_text, check, draw, verify_width

    config = composed.config
    found = verify_width(composed)
    print(json.dumps(as_json(found)) if config.output == "json" else as_text(found), flush=True)
    if config.width.to is not None:
        draw(found, Path(config.width.to), config.name)
    check(found)
    return 0.0


COMMANDS = (
    Command(
        name="verify width",
        summary="prove that activations change alike at every width",
        schema="lmx.run.width_config:VerifyWidth",
        function=run_width,
        keys=("widths", "width.key", "width.steps", "width.tolerance", "width.to", "output"),
        examples=(
            ("lmx verify width", "the coordinate check of experiment=width_ladder_mup"),
            ("lmx verify width experiment=width_ladder width.to=width.png", "of another, with a picture"),
        ),
    ),
    Command(
        name="verify faults",
        summary="stage every fault, and prove that the run survives it",
        schema="lmx.run.verify_faults_config:VerifyFaults",
        function=run_proof("lmx.run.verify_faults:verify_faults", "lmx.run.verify_faults_text"),
        keys=("steps", "verify.rows", "verify.at", "verify.every", "verify.processes", "output"),
        examples=(
            ("lmx verify faults", "the table of all faults, on 2 processes x 2 devices"),
            ("lmx verify faults verify.rows=[kill_host,nan]", "two of them"),
        ),
    ),
    Command(
        name="verify soak",
        summary="prove that a long run neither grows nor slows down",
        schema="lmx.run.verify_soak:VerifySoak",
        function=run_proof("lmx.run.verify_soak:verify_soak", "lmx.run.verify_soak"),
        keys=("soak.duration", "soak.every", "soak.memory", "soak.files", "soak.slower", "output"),
        examples=(
            ("lmx verify soak", "an hour of the default model, evaluating, saving and sampling"),
            (
                "lmx verify soak soak.duration=8h model=gpt2 data=tokens data.path=shards",
                "a night of your own",
            ),
        ),
    ),
    Command(
        name="verify resume",
        summary="prove that a resumed run equals an uninterrupted one",
        schema="lmx.run.verify_resume_config:VerifyResume",
        function=run_proof("lmx.run.verify_resume:verify_resume", "lmx.run.verify_resume_text"),
        keys=(
            "steps",
            "kills",
            "seed",
            "verify.killed",
            "verify.moved",
            "verify.every",
            "verify.tolerance",
            "output",
        ),
        examples=(
            ("lmx verify resume experiment=mine kills=20", "20 kills, then other hosts and another mesh"),
            ("lmx verify resume kills=200 seed=1", "200 kills at other moments"),
        ),
    ),
    Command(
        name="verify mesh",
        summary="prove that meshes agree",
        schema="lmx.run.verify_config:VerifyMesh",
        function=run_proof("lmx.run.verify:verify_mesh", "lmx.run.verify_text"),
        keys=(
            "meshes",
            "verify.rows",
            "verify.steps",
            "verify.devices",
            "verify.tolerance",
            "trainer.global_batch_size",
            "trainer.sequence_length",
            "output",
        ),
        examples=(
            ("lmx verify mesh=single,fsdp,fsdp_tp,context_ring", "these meshes, the first as the reference"),
            ("lmx verify mesh=single,expert model=moe_tiny", "another model"),
            (
                "lmx verify mesh=single,my_mesh verify.rows=[] experiment=mine",
                "a mesh of your own, nothing else",
            ),
        ),
        listed=(("mesh", "meshes"),),
    ),
)
