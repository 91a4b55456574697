"""`lmx verify width`: how much every activation changes in the first steps, by the width of the model.

The coordinate check of arXiv:2203.03466, appendix D.1: where rates and initial scales are right for every width, the
changes are of one size; where they are not, some grow with the width, and the best learning rate moves.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmx.config.compose import Composed
from lmx.config.errors import FAILED, ConfigError, LmxError, requests
from lmx.data.dataset import row
from lmx.data.loader import batches
from lmx.layers.loss import logits
from lmx.run.build import Parts, build, make_state, to_devices, use_compile_cache
from lmx.run.prepare import read_data
from lmx.run.programs import StepPrograms
from lmx.run.verify_trace import trace_named
from lmx.run.width_config import VerifyWidth
from lmx.types import Batch, Tree

LOGITS = "logits"


class Grows(LmxError):
    """Changes grow with the width."""

    exit_code = FAILED


class Coordinate(NamedTuple):
    """An activation, over all layers that have it.

    changes   root mean square of what the steps changed in it, one a width
    exponent  of the width, fitted to them
    """

    name: str
    changes: list[float]
    exponent: float


class Found(NamedTuple):
    """What was measured."""

    widths: list[int]
    steps: int
    losses: list[float]
    coordinates: list[Coordinate]
    tolerance: float

    @property
    def growing(self) -> list[Coordinate]:
        """Those that grow by more than the tolerance."""
        return [c for c in self.coordinates if c.exponent > self.tolerance]


def verify_width(composed: Composed[VerifyWidth]) -> Found:
    """Trains a few steps at every width; ConfigError where one of them has no configuration."""
    config = composed.config
    widths = sorted(set(config.widths))
    kept = [line for line in composed.overrides if line.partition("=")[0] not in ("widths", config.width.key)]
    configs = []
    for width in widths:
        assert composed.composer is not None
        found, problems = composed.composer.check([*kept, f"{config.width.key}={width}"])
        if found is None:
            raise ConfigError(problems, f"verify width, {config.width.key}={width}")
        configs.append(found.config)
    use_compile_cache(config.trainer.compile_cache)
    measured = [_changes(one, config.width.steps) for one in configs]
    names = list(measured[0][1])
    coordinates = []
    for name in names:
        changes = [changed[name] for _, changed in measured]
        coordinates.append(Coordinate(name, changes, exponent(widths, changes)))
    losses = [loss for loss, _ in measured]
    return Found(widths, config.width.steps, losses, coordinates, config.width.tolerance)


def exponent(widths: list[int], values: list[float]) -> float:
    """p of the power law values ~ width ** p, by least squares over logarithms."""
    tiny = np.finfo(np.float32).tiny
    return float(np.polyfit(np.log(widths), np.log(np.maximum(values, tiny)), 1)[0])


def _changes(config: VerifyWidth, steps: int) -> tuple[float, dict[str, float]]:
    """The loss after the steps, and by name what they changed in the activations of one batch."""
    with requests():
        dataset = read_data(config)[1]
        parts = build(config, total_steps=max(steps, config.trainer.steps or steps))
        state = make_state(config, parts)
    programs = StepPrograms(config, parts, row(dataset.train, 0))
    stream = batches(dataset.train, global_batch_size=config.trainer.batch_sequences())
    first: Batch | None = None
    before: list[tuple[str, np.ndarray]] = []
    loss = float("nan")
    try:
        for host in itertools.islice(stream, steps):
            batch = to_devices(host, parts.batch_sharding)
            if first is None:
                first, before = batch, _activations(parts, state.params, batch)
            state, metrics = programs(state, batch, norms=False)
            loss = float(metrics["loss"])
    finally:
        stream.close()  # type: ignore[attr-defined]
    assert first is not None
    squares: dict[str, list[float]] = {}
    for (name, old), (_, new) in zip(before, _activations(parts, state.params, first), strict=True):
        squares.setdefault(name, []).append(float(np.mean((new - old) ** 2)))
    return loss, {name: float(np.mean(each)) ** 0.5 for name, each in squares.items()}


def _activations(parts: Parts, params: Tree, batch: Batch) -> list[tuple[str, np.ndarray]]:
    """Named activations and logits of a batch, float32."""

    def out(params: Tree) -> jax.Array:
        hidden = parts.model.forward(params, batch.tokens, batch.positions, segments_BT=batch.segments).hidden
        return logits(hidden, parts.model.head(params))

    plain = lambda x: np.asarray(x.astype(jnp.float32))
    found = [(t.name, plain(t.value)) for t in trace_named(lambda p: out(p).mean(), params)]
    return [*found, (LOGITS, plain(jax.jit(out)(params)))]


def check(found: Found) -> None:
    """Grows where something does."""
    if found.growing:
        names = ", ".join(c.name for c in found.growing)
        raise Grows(f"changes grow with the width by an exponent above {found.tolerance:g}: {names}")


def as_json(found: Found) -> dict[str, Any]:
    """Plain values."""
    return {**found._asdict(), "coordinates": [c._asdict() for c in found.coordinates]}


def as_text(found: Found) -> str:
    """A table: activations, their changes at every width, the exponent."""
    header = f"{'change of':20}" + "".join(f"{f'width {w}':>12}" for w in found.widths) + f"{'exponent':>12}"
    lines = [f"root mean square of the change after {found.steps} steps, all layers together", header]
    for c in found.coordinates:
        note = "  grows" if c in found.growing else ""
        lines.append(f"{c.name:20}" + "".join(f"{x:12.4g}" for x in c.changes) + f"{c.exponent:12.2f}{note}")
    lines.append(f"{'loss':20}" + "".join(f"{x:12.4f}" for x in found.losses))
    return "\n".join(lines)


def draw(found: Found, to: Path, title: str) -> None:
    """The changes over the width, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=144, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    for c in found.coordinates:
        label = f"{c.name} ({c.exponent:+.2f})"
        plot.plot(
            found.widths,
            c.changes,
            "-o",
            markersize=4,
            linewidth=2.4 if c.name == LOGITS else 1.2,
            label=label,
        )
    plot.set_xscale("log", base=2)
    plot.set_yscale("log")
    plot.set_xticks(found.widths, [str(w) for w in found.widths])
    plot.set_xlabel("width")
    plot.set_ylabel(f"change after {found.steps} steps (root mean square)")
    plot.grid(color="#e4e7ea", linewidth=0.8)
    plot.set_title(title, loc="left", fontsize=12, fontweight="bold")
    plot.legend(
        frameon=False, fontsize=8, title="exponent of the width", loc="center left", bbox_to_anchor=(1, 0.5)
    )
    figure.savefig(to)
