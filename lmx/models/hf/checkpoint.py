"""The parameters of a checkpoint directory: loaded to their devices, written to another."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (makes bfloat16 known to numpy)
import numpy as np

from lmx.config.errors import RequestError
from lmx.config.foreign import quoted, quoted_key
from lmx.io.safetensors import Entry, find_tensors, write_tensors
from lmx.models.config import Decoder
from lmx.models.hf.families import FAMILIES
from lmx.models.hf.family import Family
from lmx.models.hf.fields import alike, decided
from lmx.models.hf.keys import CONFIG
from lmx.models.hf.multimodal import parts
from lmx.models.hf.read import Found, parse_config
from lmx.models.hf.tensors import Progress, bind, check, check_tied, load, size, written
from lmx.params import named_params
from lmx.types import Tree


def _entries(folder: Path, found: Found) -> dict[str, Entry]:
    """The tensors of a checkpoint by their names in its family, `prefix` put before those where it was left off."""
    entries, family = find_tensors(folder), found.family
    if found.off:
        listed = ", ".join(f"{quoted_key(name)}={quoted(value)}" for name, value in found.off.items())
        print(f"{folder / CONFIG}: not known in {family.model_type}, and off: {listed}", file=sys.stderr)
    if found.wrapper is not None:
        kept, aside = parts(found.wrapper, entries)
        entries = {theirs: entries[name] for name, theirs in kept.items()}
        if aside:
            print(f"{folder}: {aside}", file=sys.stderr)
    if any(name.startswith(family.prefix) for name in entries):
        return entries
    return {name if name.startswith("lm_head.") else family.prefix + name: e for name, e in entries.items()}


def load_params(
    folder: str | Path,
    found: Found,
    specs: Tree,
    shardings: Tree,
    dtype: Any,
    *,
    config: Decoder | None = None,
) -> Tree:
    """The parameters, in `dtype` whatever they are stored in, each device's own part read straight to it.

    `specs` and `shardings` are trees as the model has them; `config` is its Decoder where it is not
    `found.config` itself (another loop, dropout). RequestError for tensors that are missing, unused or misshapen.
    """
    folder = Path(folder)
    config = config or found.config
    entries = _entries(folder, found)
    quantised = found.raw.get("quantization_config")
    if quantised is not None:
        entries = found.family.quantised[quantised["quant_method"]](entries, quantised, folder)
    if found.family.fold is not None:
        entries = found.family.fold(found.raw, entries)
    try:
        bound = bind(found.family.tensors_of(config), config, specs)
    except ValueError as error:
        raise RequestError(f"{folder}: a checkpoint of {found.family.model_type} {error}") from None
    ignored = found.family.ignored_of(found.raw)
    if config.tie_embeddings and found.config.tie_embeddings:
        head = next((n for n in entries if n == "lm_head.weight"), None)
        embedding = next((b.name for b in bound if b.held[0].path == "embedding.tokens"), None)
        if head and embedding and embedding in entries:
            check_tied(entries[embedding], entries[head], folder)
            ignored = (*ignored, r"lm_head\.weight")
    try:
        check(bound, entries, ignored=ignored, where=folder)
    except RequestError as error:
        if config is found.config or alike(decided(config), decided(found.config)):
            raise
        cure = "the model is of another shape; model=pretrained makes it that of the checkpoint"
        raise RequestError(f"{error}\n    {cure}") from None
    total = size(bound) * np.dtype(dtype).itemsize
    with _Bar(total, f"reading {folder.name}") as advance:
        return load(bound, entries, specs, shardings, np.dtype(dtype), advance)


class _Bar:
    """A progress bar on a terminal for what takes a while; nothing elsewhere."""

    def __init__(self, total: int, title: str) -> None:
        self._total, self._title = total, title
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._total < 1 << 28 or not sys.stderr.isatty():
            return lambda n: None
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar

        columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn()]
        console = Console(stderr=True)
        self._bar = Bar(
            *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True
        )
        self._bar.start()
        task = self._bar.add_task(self._title, total=self._total)
        return lambda n: self._bar.update(task, advance=n)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def choose_family(
    config: Decoder, specs: Tree, more: Mapping[str, Any], *, prefer: str | None = None
) -> tuple[Family, dict[str, Any]]:
    """`prefer`, or else the first family that can hold a model, and the keys of its config.json.

    RequestError naming what none of them has.
    """
    wanted = decided(config)
    nearest: tuple[int, Family, list[str]] | None = None
    for family in sorted(FAMILIES.values(), key=lambda family: family.model_type != prefer):
        lacking = _lacking(family, config, wanted, specs, more)
        if isinstance(lacking, dict):
            return family, lacking
        if nearest is None or len(lacking) < nearest[0]:
            nearest = (len(lacking), family, lacking)
    assert nearest is not None
    _, family, lacking = nearest
    raise RequestError(
        f"this model has parts that no HuggingFace family has; the nearest, {family.model_type}, lacks "
        f"{'; '.join(lacking)}. The published models (model=qwen3_0p6b, model=gpt2, ...) can be written, with any sizes"
    )


def _lacking(
    family: Family, config: Decoder, wanted: Mapping[str, Any], specs: Tree, more: Mapping[str, Any]
) -> dict[str, Any] | list[str]:
    """The keys of a config.json of that family that describe the model, or what it cannot say."""
    try:
        told = {"model_type": family.model_type, **family.write(config)}
        told |= {} if "n_positions" in told else {"max_position_embeddings": more["max_position_embeddings"]}
        read = decided(parse_config(json.loads(json.dumps(told)), CONFIG).config)
    except (RequestError, AssertionError, AttributeError, LookupError, TypeError) as error:
        return [f"a way to write it ({error})"] * 1000
    differ = [
        f"model.{key}={wanted.get(key)}"
        for key in wanted.keys() | read.keys()
        if not alike(wanted.get(key), read.get(key))
    ]
    if differ:
        return sorted(differ)
    try:
        bind(family.tensors_of(config), config, specs)
    except ValueError as error:
        return [str(error)]
    return told


def write_checkpoint(
    folder: Path,
    config: Decoder,
    specs: Tree,
    params: Tree,
    *,
    dtype: str,
    shard_bytes: int,
    more: Mapping[str, Any],
    prefer: str | None = None,
) -> Family:
    """Writes `config.json` and the weights in `dtype` to an existing directory.

    `more` has `max_position_embeddings`, and further keys of config.json (ids of special tokens); `prefer` is the
    family to take where several could hold the model.

    Returns the family; RequestError naming the parts of the model that no family has.
    """
    family, keys = choose_family(config, specs, more, prefer=prefer)
    bound = bind(family.tensors_of(config), config, specs)
    arrays = dict(zip(named_params(specs), jax.tree.leaves(params), strict=True))
    write_tensors(folder, written(bound, arrays, np.dtype(dtype)), shard_bytes=shard_bytes)
    more = {name: value for name, value in more.items() if name != "max_position_embeddings"}
    # Said outright: a family's own ids may lie outside this vocabulary.
    specials = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    told = {
        "architectures": [family.architecture],
        **keys,
        **specials,
        **more,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    (folder / CONFIG).write_text(json.dumps(told, indent=2) + "\n")
    return family
