"""`lmx verify mesh`, `resume`, `faults`, `soak` and `width`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run_mesh(composed: Any, run_dir: Path) -> float:
    """Compares meshes; returns how many rows do not agree."""
    from lmx.run.verify import check, verify_mesh
    from lmx.run.verify_text import as_text

    result = verify_mesh(composed)
    print(json.dumps(result) if composed.config.output == "json" else as_text(result), flush=True)
    check(result)
    return 0.0


def run_resume(composed: Any, run_dir: Path) -> float:
    """Kills and resumes runs; returns how many of them are not the undisturbed one."""
    from lmx.run.verify_resume import check, verify_resume
    from lmx.run.verify_resume_text import as_text

    result = verify_resume(composed)
    print(json.dumps(result) if composed.config.output == "json" else as_text(result), flush=True)
    check(result)
    return 0.0


def run_faults(composed: Any, run_dir: Path) -> float:
    """Stages faults; returns how many are not survived."""
    from lmx.run.verify_faults import check, verify_faults
    from lmx.run.verify_faults_text import as_text

    result = verify_faults(composed)
    print(json.dumps(result) if composed.config.output == "json" else as_text(result), flush=True)
    check(result)
    return 0.0


def run_soak(composed: Any, run_dir: Path) -> float:
    """Trains for a long time; returns how many things grew."""
    from lmx.run.verify_soak import as_text, check, verify_soak

    result = verify_soak(composed)
    print(json.dumps(result) if composed.config.output == "json" else as_text(result), flush=True)
    check(result)
    return 0.0


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
        function=run_faults,
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
        function=run_soak,
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
        function=run_resume,
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
        function=run_mesh,
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
