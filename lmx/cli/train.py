"""`lmx train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run(composed: Any, run_dir: Path) -> float:
    """Trains, or goes on; returns the evaluation loss. Where several processes run, all end when one fails."""
    from lmx.config.environment import imports
    from lmx.config.errors import Resumable

    with imports():
        from lmx.run import hosts
        from lmx.run.train import train

    resume = composed.config.resume is not None
    hosts.join(composed.config.distributed)
    if not hosts.several():
        return train(composed, run_dir, resume=resume)
    try:
        run_dir = hosts.shared_folder(run_dir)
        return train(composed, run_dir, resume=resume)
    except Resumable:
        raise
    except BaseException as error:
        from lmx.cli.report import report

        hosts.leave(report("train", error, run_dir, log=hosts.log_name())[0])


COMMANDS = (
    Command(
        name="train",
        summary="train a model, or a sweep of models; go on with a run",
        schema="lmx.run.config:TrainConfig",
        function=run,
        keys=(
            "trainer.steps",
            "trainer.global_batch_size",
            "trainer.sequence_length",
            "trainer.seed",
            "trainer.eval_every",
            "trainer.compute_dtype",
            "optimizer.learning_rate",
            "model.n_layers",
            "model.d_model",
            "data.path",
            "checkpoint.every",
            "resume",
            "output",
        ),
        examples=(
            ("lmx train", "the default: a small model on the source of Python's standard library"),
            ("lmx train model=nano trainer.steps=2k optimizer=muon", "other options, other values"),
            ("lmx train -m optimizer.learning_rate=1e-3,3e-3 trainer.seed=0,1", "a sweep: four runs"),
            (
                "lmx train model.init_from=DIR data.path=book.txt data=text",
                "a HuggingFace model goes on, on your own text",
            ),
            ("lmx train resume=runs/RUN", "go on with a run that stopped"),
        ),
        resumable=True,
        literal=("trainer.sample.prompt",),
        implied=(("model.init_from", "model=pretrained"), ("model.init_from", "tokenizer=pretrained")),
        extendable=("trainer.steps", "trainer.tokens", "trainer.epochs", "trainer.duration"),
    ),
)
