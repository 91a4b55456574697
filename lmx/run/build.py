"""From a validated configuration to the parts of a run: mesh, model, optimizer, compiled programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from lmx import params as param_tree
from lmx.config.errors import RequestError
from lmx.layers.context import over_context
from lmx.layers.kernels import KernelSet
from lmx.models.model import Model
from lmx.optim.layout import state_shardings as optimizer_shardings
from lmx.run.config import TrainConfig
from lmx.run.fit import check_fit
from lmx.run.start import pretrained_params
from lmx.sharding import make_mesh, make_shard, spec
from lmx.sharding.rows import rows_to_devices
from lmx.train.step import init_state, make_train_step
from lmx.types import Batch, TrainState, Tree


class Parts(NamedTuple):
    """What a configuration builds, before any array exists.

    state_shardings is a TrainState of shardings; batch_sharding is that of every [B, T] array.
    """

    mesh: jax.sharding.Mesh
    kernels: KernelSet
    model: Model
    tx: optax.GradientTransformationExtraArgs
    learning_rate: Callable[[Any], Any]
    batch_sharding: NamedSharding
    abstract_state: TrainState
    state_shardings: TrainState


def use_compile_cache(folder: str | None) -> None:
    """Keeps compiled programs in `folder` (made when missing), for every later run on this machine.

    RequestError where the folder cannot be made.
    """
    if folder is None:
        return
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"trainer.compile_cache={folder}: {error.strerror}: {error.filename}; name another folder, or null"
        ) from None
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def build_model(config: Any, mesh: jax.sharding.Mesh, compute_dtype: str) -> tuple[Model, KernelSet]:
    """The model of a configuration with `model`, `mesh` and `kernels`, and the kernels it computes with.

    ValueError where the attention kernel that is asked for does not run here, or lacks what the model needs.
    """
    platform = mesh.devices.flat[0].platform
    shard = make_shard(mesh, config.mesh.rules, config.mesh.pipeline)
    rules = shard.inside_stages().rules  # attention is computed there, the loss outside
    kernels, inside = (
        config.kernels.build(platform, n_devices=mesh.size, mesh=mesh, rules=r)
        for r in (config.mesh.rules, rules)
    )
    needs = config.model.attention_needs(compute_dtype)
    if needs is not None:
        kernels.attention_name(needs)  # says what cannot be, before anything is compiled
    block, context = config.kernels.attention_block, config.mesh.context_attention
    stage = None if config.mesh.pipeline is None else shard.stage_axis
    attention = over_context(inside.attention, mesh, rules, context, block=block, stage_axis=stage)
    kernels = kernels._replace(attention=attention, precision=getattr(config, "precision", None))
    return config.model.build(compute_dtype=jnp.dtype(compute_dtype), kernels=kernels, shard=shard), kernels


def for_inference(config: TrainConfig) -> TrainConfig:
    """The configuration of a trained model where it is used: with the kernels that are best there, in no 8 bits.

    It was trained with those of its run's devices, which may be others, and may have no kernel of those.
    """
    best = {"attention": "auto", "experts": "auto", "exchange": "auto", "exchange_room": None}
    kernels = config.kernels.model_copy(update=best)
    precision = config.precision.model_copy(update={"products": {}})
    return config.model_copy(update={"kernels": kernels, "precision": precision})


def build(config: TrainConfig, *, total_steps: int, devices: Sequence[Any] | None = None) -> Parts:
    """All parts of a training run, on `devices` (None: those here).

    ValueError, or ConfigError with each extent that a mesh cannot split, where mesh, batch and model do not fit.
    """
    trainer = config.trainer
    mesh = make_mesh(config.mesh, devices)
    rules = config.mesh.rules
    model, kernels = build_model(config, mesh, trainer.compute_dtype)
    sequences = trainer.batch_sequences()
    check_fit(config, model.specs, mesh)
    factor = config.schedule.build(
        total_steps=total_steps, tokens_per_step=sequences * trainer.sequence_length
    )
    tx = config.optimizer.build(model.specs, factor)
    abstract_state, state_shardings = abstract_states(config, model.specs, tx, mesh)
    return Parts(
        mesh=mesh,
        kernels=kernels,
        model=model,
        tx=tx,
        learning_rate=lambda step: config.optimizer.learning_rate * factor(step),
        batch_sharding=NamedSharding(mesh, spec(("batch", "length"), rules)),
        abstract_state=abstract_state,
        state_shardings=state_shardings,
    )


def abstract_states(
    config: TrainConfig, specs: Tree, tx: optax.GradientTransformationExtraArgs, mesh: Any
) -> tuple[TrainState, TrainState]:
    """The state's shapes, each with its sharding, and the shardings alone; `mesh` may be an `AbstractMesh`."""
    dtype = jnp.dtype(config.trainer.param_dtype)
    param_shardings = param_tree.shardings(specs, mesh, config.mesh.rules)
    abstract_params = param_tree.abstract(specs, dtype, param_shardings)
    abstract_state = jax.eval_shape(lambda p: init_state(p, tx, **_kept_beside(config)), abstract_params)
    everywhere = NamedSharding(mesh, jax.P())
    state_shardings = TrainState(
        step=everywhere,
        params=param_shardings,
        opt_state=optimizer_shardings(tx, abstract_params, param_shardings, mesh),
        ema=None if config.optimizer.ema_decay is None else param_shardings,
        skipped=everywhere,
        skipped_run=everywhere,
        spikes=jax.tree.map(lambda _: everywhere, abstract_state.spikes),
    )
    abstract_state = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract_state, state_shardings
    )
    return abstract_state, state_shardings


def _kept_beside(config: TrainConfig) -> dict[str, bool]:
    """What a state has besides parameters and moments."""
    return {"ema": config.optimizer.ema_decay is not None, "spikes": config.spikes is not None}


def make_state(config: TrainConfig, parts: Parts) -> TrainState:
    """The state before the first step, made in place on the mesh. Equal values whatever the mesh."""
    dtype = jnp.dtype(config.trainer.param_dtype)
    beside = _kept_beside(config)
    if getattr(config.model, "init_from", None) is not None:
        shardings = parts.state_shardings
        params = pretrained_params(config.model, parts.model.specs, shardings.params, str(dtype))
        make = jax.jit(lambda p: init_state(p, parts.tx, **beside), out_shardings=shardings, donate_argnums=0)
        return make(params)

    def start(key: jax.Array) -> TrainState:
        params = param_tree.init(parts.model.specs, key, dtype)
        return init_state(params, parts.tx, **beside)

    return jax.jit(start, out_shardings=parts.state_shardings)(jax.random.key(config.trainer.seed))


def train_program(config: TrainConfig, parts: Parts, *, norms: bool) -> Callable[..., Any]:
    """The jitted training step, its state donated and laid out as before when it comes back."""
    step = make_train_step(
        parts.model,
        parts.kernels,
        parts.tx,
        learning_rate=parts.learning_rate,
        accumulation=config.trainer.accumulation,
        z_loss=config.trainer.z_loss,
        seed=config.trainer.seed,
        dropout=getattr(config.model, "dropout", 0.0) > 0.0,
        ema_decay=config.optimizer.ema_decay,
        norms=norms,
        spikes=config.spikes,
    )
    return jax.jit(step, donate_argnums=0, out_shardings=(parts.state_shardings, None))


def to_devices(batch: Batch, sharding: NamedSharding) -> Batch:
    """This process's rows of a global batch (see `rows_of_process`) as its part of global arrays."""
    return jax.tree.map(lambda x: rows_to_devices(np.asarray(x), sharding), batch)
