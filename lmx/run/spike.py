"""`lmx spike`: a step of a run done once more, with the loss of every token and the norms of every layer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lmx.config.errors import RequestError, requests
from lmx.config.resume import load_resumed
from lmx.data.dataset import row
from lmx.data.tokenizers import TokenizerImpl
from lmx.data.windows import Window, batch_of, batches_without, windows_of
from lmx.io.ledger import attempts_of, file_name, read_ledger
from lmx.io.records import read_metrics
from lmx.io.stored import Stored
from lmx.layers.loss import token_losses
from lmx.params import path_name
from lmx.run.build import Parts, build, make_state, to_devices
from lmx.run.config import TrainConfig
from lmx.run.length import total_steps
from lmx.run.prepare import read_data
from lmx.run.programs import StepPrograms
from lmx.run.spikes import abstract_for, adapted
from lmx.types import Batch, TrainState, Tree

CONTEXT = 24
"""Tokens shown before one with a high loss."""


class Token(NamedTuple):
    """A target with its loss in nats, and the text before it."""

    place: int
    loss: float
    text: str
    before: str


class Row(NamedTuple):
    """A row of the batch: its number among the examples, its mean loss, its tokens of the highest loss, its text."""

    example: int
    loss: float
    tokens: tuple[Token, ...]
    text: str


class Layer(NamedTuple):
    """A tensor (of one layer): a norm in this step, in the median of the steps before, and their ratio."""

    name: str
    kind: str
    norm: float
    usual: float
    ratio: float


class Found(NamedTuple):
    """What a step was: loss and gradient norm, those recorded by the run, the medians before, rows and layers."""

    step: int
    began: int
    loss: float
    recorded: float | None
    usual: float | None
    grad_norm: float
    usual_grad_norm: float | None
    rows: tuple[Row, ...]
    layers: tuple[Layer, ...]


def look(run: Path, step: int, *, window: int, rows: int, tokens: int, changes: Sequence[str]) -> Found:
    """Goes on from the newest checkpoint before `step`, does every step up to it again, and looks into it.

    RequestError where the run has not come so far; ConfigError for changes that would make it another run.
    """
    config: TrainConfig = load_resumed(run, list(changes), TrainConfig).config
    with requests():
        tokenizer, dataset = read_data(config, run)
        epoch = dataset.examples_per_epoch if config.trainer.epochs else 0
        parts = build(config, total_steps=total_steps(config.trainer, examples_per_epoch=epoch))
        programs = StepPrograms(config, parts, row(dataset.train, 0))
        recorded = {line["step"]: line.get("loss") for line in read_metrics(run)}
        if step > max(recorded, default=0):
            raise RequestError(f"step={step}: {run} has come to step {max(recorded, default=0)}")
        state, began = _state_before(run, config, parts, step)
    size = config.trainer.batch_sequences()
    windows = left_out(run)
    stream = batches_without(dataset.train, windows, global_batch_size=size, start_step=began)
    history: list[dict[str, Any]] = []
    losses_BT = None
    try:
        for n in range(began + 1, step + 1):
            host = next(stream)
            batch = to_devices(host, parts.batch_sharding)
            if n == step:
                losses_BT = np.asarray(_losses(parts)(state.params, batch))
            state, metrics = programs(state, batch, norms=n >= step - window)
            history.append(jax.device_get(metrics))
    finally:
        stream.close()  # type: ignore[attr-defined]
    now, before = history[-1], history[max(len(history) - 1 - window, 0) : -1]
    usual = lambda key: statistics.median(float(m[key]) for m in before) if before else None
    assert losses_BT is not None
    return Found(
        step,
        began,
        float(now["loss"]),
        recorded.get(step),
        usual("loss"),
        float(now["grad_norm"]),
        usual("grad_norm"),
        _rows(host, losses_BT, (batch_of(step, windows) - 1) * size, tokenizer, rows, tokens),
        _layers(now["norms"], [m["norms"] for m in before if "norms" in m]),
    )


def _state_before(run: Path, config: TrainConfig, parts: Parts, step: int) -> tuple[TrainState, int]:
    checkpoints = Stored(run / "checkpoints")
    earlier = [saved for saved in checkpoints.steps() if saved < step]
    if not earlier:
        return make_state(config, parts), 0
    newest = max(earlier)
    restored = checkpoints.restore(abstract_for(checkpoints, parts.abstract_state, newest), newest)
    return adapted(restored.state, parts.abstract_state), restored.step


def left_out(run: Path) -> tuple[Window, ...]:
    """The batches that a run leaves out, as far as it has come."""
    attempts = attempts_of(read_ledger(run / file_name(0)).objects)
    return windows_of(attempts[-1].start.get("left_out")) if attempts else ()


def _losses(parts: Parts) -> Any:
    """(params, batch) -> weighted negative log-likelihoods [B, T]."""

    def losses(params: Tree, batch: Batch) -> jax.Array:
        out = parts.model.forward(params, batch.tokens, batch.positions, segments_BT=batch.segments)
        found = token_losses(out.hidden, parts.model.head(params), batch.targets, chunks=8)
        return found * batch.weights

    return jax.jit(losses)


def _rows(
    batch: Batch, losses_BT: np.ndarray, first: int, tokenizer: TokenizerImpl, count: int, tokens: int
) -> tuple[Row, ...]:
    weights = np.asarray(batch.weights)
    means = losses_BT.sum(1) / np.maximum(weights.sum(1), 1e-6)
    found = []
    for b in np.argsort(-means, kind="stable")[:count]:
        ids, targets = np.asarray(batch.tokens[b]), np.asarray(batch.targets[b])
        high = np.argsort(-losses_BT[b], kind="stable")[:tokens]
        shown = tuple(
            Token(
                int(t),
                float(losses_BT[b, t]),
                tokenizer.decode(targets[t : t + 1]),
                tokenizer.decode(ids[max(t + 1 - CONTEXT, 0) : t + 1]),
            )
            for t in high
            if weights[b, t]
        )
        found.append(Row(first + int(b), float(means[b]), shown, tokenizer.decode(ids)))
    return tuple(found)


def _layers(now: dict[str, Tree], before: Sequence[dict[str, Tree]]) -> tuple[Layer, ...]:
    """Gradients and updates of every tensor of every layer, those that stand out most from the steps before first."""
    found = []
    earlier = [{kind: _flat(norms[kind]) for kind in ("grad", "update")} for norms in before]
    for kind in ("grad", "update"):
        for name, norm in _flat(now[kind]).items():
            usual = statistics.median(one[kind][name] for one in earlier) if earlier else norm
            found.append(
                Layer(name, kind, norm, usual, norm / usual if usual else float("inf") if norm else 1.0)
            )
    return tuple(sorted(found, key=lambda layer: -layer.ratio))


def _flat(tree: Tree) -> dict[str, float]:
    """Path -> norm, stacked layers each under its number: `layers.3.mlp.up`."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name, values = path_name(path), np.asarray(leaf)
        if values.ndim == 0:
            found[name] = float(values)
            continue
        group, _, rest = name.partition(".")[2].partition(".")
        for i, value in enumerate(values):
            found[f"layers.{group}[{i}].{rest}"] = float(value)
    return found


def as_json(found: Found, *, layers: int = 20) -> dict[str, Any]:
    """Plain values."""
    rows = [{**r._asdict(), "tokens": [t._asdict() for t in r.tokens]} for r in found.rows]
    return {**found._asdict(), "rows": rows, "layers": [x._asdict() for x in found.layers[:layers]]}


def text(found: Found, *, layers: int = 8) -> str:
    """In words: the step, the layers that stand out, the rows of the highest loss with their tokens."""
    beside = "" if found.usual is None else f" (median of the steps before: {found.usual:.4f})"
    norm = "" if found.usual_grad_norm is None else f" ({found.usual_grad_norm:.3g})"
    lines = [f"step {found.step}: loss {found.loss:.4f}{beside}, gradient norm {found.grad_norm:.3g}{norm}"]
    if found.recorded is not None:
        same = (
            "as the run recorded it"
            if found.recorded == found.loss
            else f"the run recorded {found.recorded:.6f}"
        )
        lines.append(f"    done again from step {found.began}: {same}")
    lines += ["", "norms that stand out from the steps before"]
    for layer in found.layers[:layers]:
        lines.append(
            f"    {layer.ratio:8.2f} x  {layer.kind:6}  {layer.name}  ({layer.usual:.3g} -> {layer.norm:.3g})"
        )
    for one in found.rows:
        lines += ["", f"example {one.example:,}: {one.loss:.4f} nats a token"]
        lines += [f"    {t.loss:7.2f}  place {t.place}: {t.before!r} -> {t.text!r}" for t in one.tokens]
        lines += [f"    | {line}" for line in one.text.splitlines()]
    return "\n".join(lines)
