"""The training step: one compiled, donated program from (state, batch) to (state, metrics)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmx.layers.kernels import KernelSet
from lmx.models.model import Model
from lmx.train.spikes import look, no_statistics
from lmx.train.spikes_config import Spikes
from lmx.types import Batch, TrainState, Tree


def init_state(
    params: Tree, tx: optax.GradientTransformation, *, ema: bool, spikes: bool = False
) -> TrainState:
    """The state before the first step."""
    zero = lambda: jnp.zeros((), jnp.int32)  # each its own buffer: the state is donated
    return TrainState(
        step=zero(),
        params=params,
        opt_state=tx.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        skipped=zero(),
        skipped_run=zero(),
        spikes=no_statistics() if spikes else None,
    )


def loss_sums(
    model: Model, kernels: KernelSet, params: Tree, batch: Batch, *, z_loss: float, dropout_key: Any = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sums over a (micro-)batch, float32: the objective to differentiate, and what is to be shown of it by name.

    "loss" is the objective's cross-entropy part; the model's own losses go along, each times the weight of the batch,
    and what it counted (`count/...`) as it is. Sums, not means: whoever calls divides by the weight of the whole
    batch, so that micro-batches with unequal numbers of counted tokens add up to exactly the full batch.
    """
    out = model.forward(
        params, batch.tokens, batch.positions, segments_BT=batch.segments, dropout_key=dropout_key
    )
    losses = kernels.cross_entropy(
        out.hidden, model.head(params), batch.targets, batch.weights, z_loss=z_loss
    )
    weight = batch.weights.sum(dtype=jnp.float32)
    own = {name: weight * value for name, value in out.aux.items() if name.startswith("loss/")}
    counts = {name: value for name, value in out.aux.items() if name.startswith("count/")}
    return losses.total + sum(own.values()), {"loss": losses.nll} | own | counts


def _micro_batches(batch: Batch, n: int) -> Batch:
    """[B, T] as [n, B/n, T], each micro-batch taking every n-th row, so that rows stay on their devices."""
    split = lambda x: x.reshape(x.shape[0] // n, n, *x.shape[1:]).swapaxes(0, 1)
    return jax.tree.map(split, batch)


def gradients(
    model: Model,
    kernels: KernelSet,
    params: Tree,
    batch: Batch,
    *,
    accumulation: int,
    z_loss: float,
    dropout_key: Any = None,
) -> tuple[dict[str, jax.Array], Tree]:
    """Means over the weighted tokens of the whole batch, "loss" among them, with counts of it (`count/...`); and the
    objective's gradient.
    """
    weight = jnp.maximum(batch.weights.sum(dtype=jnp.float32), 1e-6)

    def objective(params: Tree, part: Batch, key: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        total, sums = loss_sums(model, kernels, params, part, z_loss=z_loss, dropout_key=key)
        counted = lambda name: name.startswith("count/")
        return total / weight, {name: x if counted(name) else x / weight for name, x in sums.items()}

    value_and_grad = jax.value_and_grad(objective, has_aux=True)
    if accumulation == 1:
        (_, means), grads = value_and_grad(params, batch, dropout_key)
        return means, grads

    def add(carry: Tree, inputs: tuple) -> tuple[Tree, dict[str, jax.Array]]:
        part, i = inputs
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, i)
        (_, means), grads = value_and_grad(params, part, key)
        return jax.tree.map(jnp.add, carry, grads), means

    parts = (_micro_batches(batch, accumulation), jnp.arange(accumulation))
    grads, means = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
    return {name: x.sum(0) for name, x in means.items()}, grads


def layer_norms(params: Tree, grads: Tree, updates: Tree) -> dict[str, Tree]:
    """2-norms of every leaf of parameters, gradients and updates; one a layer for stacked leaves.

    {"param": tree, "grad": tree, "update": tree}, leaves float32 [] or, under `layers`, [L].
    """

    def of(tree: Tree) -> Tree:
        def one(path: tuple, x: jax.Array) -> jax.Array:
            stacked = path[0] == jax.tree_util.DictKey("layers")
            return jnp.sqrt(
                jnp.sum(jnp.square(x.astype(jnp.float32)), axis=tuple(range(int(stacked), x.ndim)))
            )

        return jax.tree_util.tree_map_with_path(one, tree)

    return {"param": of(params), "grad": of(grads), "update": of(updates)}


def _moved(average: Tree, params: Tree, part: float) -> Tree:
    return jax.tree.map(lambda e, p: e + part * (p - e).astype(e.dtype), average, params)


def _taken(state: TrainState, updated: TrainState, *, good: jax.Array, finite: jax.Array) -> TrainState:
    """The state after the step: `updated` where the update is good, or else `state` with one more skipped."""
    keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    missed = (~finite).astype(jnp.int32)
    return TrainState(
        step=state.step + 1,
        params=keep(updated.params, state.params),
        opt_state=keep(updated.opt_state, state.opt_state),
        ema=keep(updated.ema, state.ema),
        skipped=state.skipped + (missed if good is finite else (~good).astype(jnp.int32)),
        skipped_run=(state.skipped_run + 1) * missed,
        spikes=updated.spikes,
    )


def make_train_step(
    model: Model,
    kernels: KernelSet,
    tx: optax.GradientTransformationExtraArgs,
    *,
    learning_rate: Callable[[jax.Array], jax.Array],
    accumulation: int,
    z_loss: float,
    seed: int,
    dropout: bool,
    ema_decay: float | None,
    norms: bool,
    spikes: Spikes | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]:
    """(state, batch) -> (state, metrics); to be jitted with the state donated.

    When the loss or the gradient is not finite, parameters, moments and average stay as they were and the
    update counts as skipped. Metrics: loss and what the model shows of itself, grad_norm (before clipping),
    learning_rate, skipped, skipped_run, and with `norms` a tree under `norms` and what the model shows in arrays.
    With `spikes` the same is done with a spike where they say so, and the metrics have spikes (how many so far),
    spike_run (in a row), loss_deviations and grad_norm_deviations (above their means).
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step) if dropout else None
        means, grads = gradients(
            model, kernels, state.params, batch, accumulation=accumulation, z_loss=z_loss, dropout_key=key
        )
        grad_norm = optax.tree.norm(grads).astype(jnp.float32)
        good = finite = jnp.isfinite(means["loss"]) & jnp.isfinite(grad_norm)
        watch, seen = state.spikes, None
        if spikes is not None:
            watch, seen = look(state.spikes, means["loss"], grad_norm, finite, spikes)
            good = finite & ~seen.spike if spikes.skips else finite
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, grad_norm=grad_norm, step=state.step - state.skipped
        )
        params = optax.apply_updates(state.params, updates)
        counts = {name: means.pop(name) for name in list(means) if name.startswith("count/")}
        if model.settle is not None:
            params, shown = model.settle(state.params, params, counts)
            means |= {name: value for name, value in shown.items() if norms or value.ndim == 0}
        ema = None if ema_decay is None else _moved(state.ema, params, 1 - ema_decay)
        updated = state._replace(params=params, opt_state=opt_state, ema=ema, spikes=watch)
        taken = _taken(state, updated, good=good, finite=finite)
        metrics: dict[str, Any] = {
            **means,
            "grad_norm": grad_norm,
            "learning_rate": jnp.asarray(learning_rate(state.step - state.skipped), jnp.float32),
            "skipped": taken.skipped,
            "skipped_run": taken.skipped_run,
        }
        if seen is not None:
            metrics |= {"spikes": watch.count, "spike_run": watch.run}
            metrics |= {"loss_deviations": seen.loss, "grad_norm_deviations": seen.norm}
        if norms:
            metrics["norms"] = layer_norms(state.params, grads, updates)
        return taken, metrics

    return step
