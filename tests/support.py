"""What several tests need: configurations from the real YAML, built small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from omegaconf import OmegaConf

from lmx.config.resolvers import register
from lmx.models import Model
from lmx.sharding import Shard

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
ONE_DEVICE = Shard(None, {})


def read_option(group: str, option: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """One YAML of conf/, with its `defaults` merged in and `changes` applied (dotted keys), not yet resolved."""
    tree = OmegaConf.load(CONF / group / f"{option}.yaml")
    base = OmegaConf.create({})
    for entry in tree.pop("defaults", []):
        if entry != "_self_":
            base = OmegaConf.merge(base, OmegaConf.create(read_option(group, entry)))
    tree = OmegaConf.merge(base, tree)
    for key, value in (changes or {}).items():
        OmegaConf.update(tree, key, value)
    return OmegaConf.to_container(tree)


def model_config(option: str, changes: dict[str, Any] | None = None) -> Any:
    """A validated `model` option, for the bytes tokenizer."""
    register()
    tree = {"model": read_option("model", option, changes), "tokenizer": {"vocab_size": 256}}
    return Model.model_validate(OmegaConf.to_container(OmegaConf.create(tree), resolve=True)["model"])


def kernels_config(option: str, changes: dict[str, Any] | None = None) -> Any:
    """A validated `kernels` option."""
    from lmx.layers import Kernels

    register()
    tree = OmegaConf.create(read_option("kernels", option, changes))
    return Kernels.model_validate(OmegaConf.to_container(tree, resolve=True))


def build_model(
    config: Any, *, dtype: str = "float32", kernels: str = "plain", shard: Shard = ONE_DEVICE
) -> Any:
    """The model on one device."""
    built = kernels_config(kernels).build("cpu", n_devices=1)
    return config.build(compute_dtype=jnp.dtype(dtype), kernels=built, shard=shard)


def train_config(changes: dict[str, Any]) -> Any:
    """A small TrainConfig from the real groups: `changes` choose options (mesh, optimizer, ...) and trainer keys."""
    from lmx.run.config import TrainConfig

    register()
    small = {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "initializer.residual": "plain"}
    knobs = {"sequence_length": 32, "global_batch_size": 8, "eval_batch_size": 8, "compile_cache": None}
    choices = {"optimizer": "adamw", "schedule": "constant", "mesh": "single", "kernels": "auto"}
    choices |= {group: name for group, name in changes.items() if group in choices}
    tree: dict[str, Any] = {group: read_option(group, name) for group, name in choices.items()}
    tree["model"] = read_option("model", "tiny", small | changes.get("model", {}))
    tree["trainer"] = read_option("trainer", "default", knobs | changes.get("trainer", {}))
    for group, name in {
        "data": "stdlib",
        "tokenizer": "bytes",
        "checkpoint": "default",
        "logging": "default",
        "precision": "none",
        "xla": "auto",
        "distributed": "one",
        "watchdog": "default",
    }.items():
        tree[group] = read_option(group, name)
    tree |= {
        "name": "test",
        "waive": {},
        "spikes": None,
        "replay": None,
        "fault": None,
        "resume": None,
        "output": "text",
    }
    return TrainConfig.model_validate(OmegaConf.to_container(OmegaConf.create(tree), resolve=True))


def write_pretrained(
    folder: Path, *, tokenizer: Path | None = None, changes: dict[str, Any] | None = None
) -> Path:
    """A small random Qwen3 as a HuggingFace directory, with the tokenizer files of another directory."""
    import shutil

    import jax

    from lmx import params as param_tree
    from lmx.models.hf import write_checkpoint

    small = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "mlp.d_ff": 48}
    more = {"vocab_size": 640, "initializer.embedding": 0.5, "initializer.matrix": 0.3}
    config = model_config("qwen3_0p6b", small | more | (changes or {}))
    model = build_model(config)
    params = param_tree.init(model.specs, jax.random.key(3), jnp.float32)
    folder.mkdir(parents=True)
    context = {"max_position_embeddings": 256}
    write_checkpoint(folder, config, model.specs, params, dtype="float32", shard_bytes=10**9, more=context)
    for name in ("tokenizer.json", "tokenizer_config.json") if tokenizer else ():
        shutil.copy(tokenizer / name, folder / name)  # type: ignore[operator]
    return folder
