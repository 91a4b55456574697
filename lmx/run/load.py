"""A trained model from disk: `lmx.load(path)`, and what generate and eval start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmx import params as param_tree
from lmx.config.compose import load as compose
from lmx.config.earlier import read_frozen
from lmx.config.errors import RequestError
from lmx.config.mesh import Mesh
from lmx.config.overrides import write_value
from lmx.config.validate import validate
from lmx.data.kept import kept_tokenizer
from lmx.data.pretrained import IdsOnly
from lmx.infer.engine import Engine
from lmx.infer.requests import Request, Result
from lmx.io.stored import Stored
from lmx.layers.kernels import KernelSet
from lmx.layers.loss import logits
from lmx.models import hf
from lmx.models.model import Model
from lmx.run.build import build_model, for_inference
from lmx.run.config import TrainConfig
from lmx.run.origin import origin_of
from lmx.run.programs import options_for
from lmx.sharding import make_mesh
from lmx.types import Tree

Which = int | Literal["last", "best"]


class Source(NamedTuple):
    """Where a model comes from, and its configuration.

    run         a run directory, or a HuggingFace directory
    which       of a run: which of its checkpoints
    checkpoint  of a HuggingFace directory: what its config.json says; None: a run
    """

    run: Path
    which: Which
    config: TrainConfig
    checkpoint: hf.Found | None


class Loaded:
    """A trained model and its parameters on one device (or the mesh of its run).

    config      the TrainConfig of its run
    params      tree of arrays
    tokenizer   text <-> ids, or None
    vocabulary  the tokenizer, or where there is none, what is known of the ids alone (`IdsOnly`)
    step        of the checkpoint
    max_length  most positions of a prompt and its continuation; None: no limit is known
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Model,
        kernels: KernelSet,
        params: Tree,
        tokenizer: Any,
        step: int,
        context: int | None = None,
    ) -> None:
        self.config, self.model, self.kernels, self.params = config, model, kernels, params
        self.tokenizer: Any = None if isinstance(tokenizer, IdsOnly) else tokenizer
        self.vocabulary: Any = tokenizer
        self.step = step
        limits = [n for n in (config.model.max_length(), context) if n is not None]
        self.max_length = min(limits, default=None)
        self._logits = jax.jit(lambda p, x: logits(model.forward(p, x).hidden, model.head(p)))
        self._losses = jax.jit(
            lambda p, x: kernels.token_losses(model.forward(p, x[:, :-1]).hidden, model.head(p), x[:, 1:])
        )
        self._engine: Engine | None = None

    def __repr__(self) -> str:
        """`<lmx model of run gpt2, step 4000: 124,439,808 parameters, vocabulary of 50257 (gpt2)>`."""
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params)) if self.params is not None else 0
        words = self.vocabulary.name if self.tokenizer is not None else "without tokenizer"
        return (
            f"<lmx model of run {self.config.name}, step {self.step}: {count:,} parameters, "
            f"vocabulary of {self.config.model.vocab_size} ({words})>"
        )

    def _ids(self, tokens_BT: Any) -> jax.Array:
        if isinstance(tokens_BT, str) or any(isinstance(row, str) for row in tokens_BT):
            raise ValueError(
                "tokens: expected rows of ids [B, T], got text; m.complete([text], n) goes on with text"
            )
        tokens_BT = np.asarray(tokens_BT, np.int32)
        if tokens_BT.ndim != 2:
            raise ValueError(
                f"tokens: expected rows of ids [B, T], got shape {tokens_BT.shape}; one text's ids are [ids]"
            )
        if not tokens_BT.size:
            raise ValueError(f"tokens: expected at least one id, got shape {tokens_BT.shape}")
        vocab = self.config.model.vocab_size
        if tokens_BT.size and (tokens_BT.min() < 0 or tokens_BT.max() >= vocab):
            wrong = int(tokens_BT.max() if tokens_BT.max() >= vocab else tokens_BT.min())
            raise ValueError(f"tokens: id {wrong} is outside the model's vocabulary of {vocab}")
        return jnp.asarray(tokens_BT)

    def logits(self, tokens_BT: Any) -> jax.Array:
        """float32 [B, T, V]. ValueError for ids outside the vocabulary."""
        return self._logits(self.params, self._ids(tokens_BT))

    def loss(self, tokens_BT: Any) -> jax.Array:
        """Nats of each token after the first given those before it, float32 [B, T-1]."""
        return self._losses(self.params, self._ids(tokens_BT))

    def generate(
        self,
        tokens_BT: Any,
        max_new_tokens: int,
        temperature: float = 0.0,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        eos_id: int | None = None,
        **knobs: Any,
    ) -> np.ndarray:
        """Prompts and their continuations, int32 [B, T + max_new_tokens]; `temperature` 0 is greedy.

        After `eos_id` a row goes on with `eos_id`. `knobs` are further fields of `lmx.infer.requests.Request`
        (min_p, repetition_penalty, logit_bias, stop, ...); after a stop text, a row is filled up like after
        `eos_id`. Rows are drawn independently of one another; equal prompts get different continuations. ValueError
        when a row does not fit the model's positions, and for a knob that cannot take effect.
        """
        if knobs.get("logprobs") is not None:
            raise ValueError(
                "logprobs: generate returns ids alone; lmx generate logprobs=N output=json has them"
            )
        if knobs.get("stop") and self.tokenizer is None:
            raise ValueError("stop: texts need a tokenizer, and there is none; give ids, eos_id=")
        prompt_BT = np.asarray(self._ids(tokens_BT))
        knobs |= {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        stop = () if eos_id is None else (eos_id,)
        results = self._run(prompt_BT.tolist(), max_new_tokens=max_new_tokens, stop_tokens=stop, **knobs)
        new_BT = np.full((len(results), max_new_tokens), 0 if eos_id is None else eos_id, np.int32)
        for row, result in zip(new_BT, results, strict=True):
            row[: len(result.tokens)] = result.tokens
        return np.concatenate([prompt_BT, new_BT], axis=1)

    def complete(
        self, prompts: Sequence[str], max_new_tokens: int, temperature: float = 0.0, **knobs: Any
    ) -> list[str]:
        """What each text goes on with, up to the end of text, a `stop` text or `max_new_tokens`; 0 is greedy.

        `knobs` as of `generate`. ValueError where there is no tokenizer, and for a prompt that is empty or too long.
        """
        if isinstance(prompts, str):
            raise ValueError(
                f"prompts: expected a list of texts, got one text; [{prompts!r}] is a list of it"
            )
        if self.tokenizer is None:
            raise ValueError("prompts: texts need a tokenizer, and there is none; give ids to generate")
        encode = getattr(self.tokenizer, "encode_prompt", self.tokenizer.encode)
        rows = [[int(i) for i in encode(text)] for text in prompts]
        eos = self.tokenizer.eos_id
        ends = getattr(self.tokenizer, "eos_ids", None) or ([] if eos is None else [eos])
        asked = {"max_new_tokens": max_new_tokens, "temperature": temperature, "stop_tokens": tuple(ends)}
        return [result.text for result in self._run(rows, **asked, **knobs)]

    def _run(self, rows: Sequence[Sequence[int]], **knobs: Any) -> list[Result]:
        if self._engine is None:
            known = None if self.tokenizer is None else self.tokenizer.vocab_size
            options = options_for(self.config, make_mesh(self.config.mesh))
            knobs_of = {"max_length": self.max_length, "compiler_options": options}
            self._engine = Engine(self.model, self.params, self.tokenizer, vocab_size=known, **knobs_of)
        self._engine.params = self.params
        met: Counter[tuple[int, ...]] = Counter()
        asked = []
        for ids in map(tuple, rows):
            asked.append(Request(tokens=ids, sample=met[ids], **knobs))
            met[ids] += 1
        return self._engine.run(asked)


def find(path: str | Path, which: Which = "last") -> Source:
    """The model that `path` means: a run directory, RUN/checkpoints/STEP, or a HuggingFace directory.

    RequestError where there is none.
    """
    path = Path(path).expanduser()
    if path.name.isdecimal() and path.parent.name == "checkpoints":
        path, which = path.parent.parent, int(path.name)
    if (path / "config.yaml").is_file():
        tree = read_frozen(path / "config.yaml", TrainConfig)
        tree["tokenizer"] = kept_tokenizer(path) or tree["tokenizer"]
        checked = validate(TrainConfig, tree)
        if checked.config is None:
            listed = "\n".join(f"  {p.key}: {p.message}" for p in checked.problems)
            raise RequestError(f"from={path}: its config.yaml does not fit this version of lmx\n{listed}")
        return Source(path, which, checked.config, None)
    if hf.is_checkpoint(path):
        found = hf.read_config(path)
        return Source(path, which, _pretrained_config(path, found), found)
    missing = "does not exist"
    if path.exists():
        missing = (
            "is no run directory (it has no config.yaml) and no HuggingFace directory (it has no config.json)"
        )
    raise RequestError(
        f"from={path}: {missing}; give a run directory, RUN/checkpoints/STEP or a HuggingFace directory"
    )


def context_length(source: Source) -> int | None:
    """Positions that a model was made for, as the config.json says that it came with; None: no limit is known.

    A run that began from a HuggingFace directory and was trained on longer sequences was made for those.
    """
    found = source.checkpoint or origin_of(
        source.run, getattr(source.config.model, "init_from", None), needed=False
    )
    if found is None or found.context is None:
        return None
    trained = source.config.trainer.sequence_length if source.checkpoint is None else 0
    return max(found.context, trained)


def _pretrained_config(path: Path, found: hf.Found) -> TrainConfig:
    """What `lmx train` would make of a HuggingFace directory, its context as long as the model's, at most 2048."""
    length = min(found.config.max_length() or found.context or 2048, 2048)
    overrides = ["model=pretrained", f"model.init_from={write_value(str(path))}", "tokenizer=pretrained"]
    return compose("train", [*overrides, f"trainer.sequence_length={length}"], schema=TrainConfig).config


def load(
    path: str | Path,
    dtype: str = "float32",
    *,
    which: Which = "last",
    weights: Literal["auto", "params", "ema"] = "auto",
    mesh: Mesh | None = None,
) -> Loaded:
    """The model at `path`, a run directory, RUN/checkpoints/STEP or a HuggingFace directory, computing in `dtype`.

    `which`: the `last` checkpoint, the `best`, or a step. `weights`: `params`, their average `ema`, or `auto`: the
    average when the run kept one. `mesh`: the devices, where it is to be others than one, or those of the run.
    Raises RequestError where there is nothing whole to load, and where the chosen checkpoint is damaged.
    """
    source = find(path, which)
    config = source.config if mesh is None else source.config.model_copy(update={"mesh": mesh})
    devices = make_mesh(config.mesh)
    model, kernels = build_model(for_inference(config), devices, dtype)
    shardings = param_tree.shardings(model.specs, devices, config.mesh.rules)
    if source.checkpoint is not None:
        for key, value, plain in (("which", which, "last"), ("weights", weights, "auto")):
            if value not in (plain, "params"):
                raise RequestError(
                    f"{key}={value}: {path} is a HuggingFace directory, which holds one set of weights; leave it out"
                )
        params = hf.load_params(source.run, source.checkpoint, model.specs, shardings, dtype)
        return Loaded(config, model, kernels, params, config.tokenizer.build(), 0, context_length(source))
    abstract = param_tree.abstract(model.specs, jnp.dtype(dtype), shardings)
    kept = weights
    if kept == "auto":
        kept = "params" if config.optimizer.ema_decay is None else "ema"
    restored = Stored(source.run / "checkpoints").restore_params(abstract, source.which, weights=kept)
    return Loaded(
        config,
        model,
        kernels,
        restored.state,
        config.tokenizer.build(),
        restored.step,
        context_length(source),
    )
