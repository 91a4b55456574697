"""`lmx export`: a model as a HuggingFace directory."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError, requests
from lmx.data.huggingface_files import write_tokenizer
from lmx.models.config import Decoder
from lmx.models.hf.checkpoint import write_checkpoint
from lmx.models.hf.read import Found
from lmx.run.export_config import ExportConfig
from lmx.run.load import Loaded, find, load
from lmx.run.origin import origin_of


def export(composed: Any, run_dir: Path) -> None:
    """Writes the directory whole or not at all; says on stdout what it holds.

    RequestError where it exists already, and where the model has parts that no HuggingFace family has.
    """
    config: ExportConfig = composed.config
    target = Path(config.to).expanduser()
    with requests():
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise RequestError(f"to={target}: exists already; give a directory that does not, or remove it")
        source = find(config.source, config.which)
        model = source.config.model
        if not isinstance(model, Decoder):
            raise RequestError(f"from={config.source}: its model is a {type(model).__name__}, not a Decoder")
        origin = origin_of(source.run, getattr(model, "init_from", None), needed=True)
        loaded = load(config.source, "float32", which=config.which, weights=config.weights)
        writing = target.with_name(f".{target.name}.writing-{os.getpid()}")
        writing.mkdir(parents=True)
        try:
            family = write_checkpoint(
                writing,
                model,
                loaded.model.specs,
                loaded.params,
                dtype=config.dtype,
                shard_bytes=config.shard_bytes,
                prefer=None if origin is None else origin.family.model_type,
                more={"max_position_embeddings": _context(loaded, origin), **_special_ids(loaded)},
            )
            tokenizer = write_tokenizer(writing, source.config.tokenizer, loaded.tokenizer)
            if target.is_dir():
                target.rmdir()
            writing.rename(target)
        except BaseException:
            shutil.rmtree(writing, ignore_errors=True)
            raise
    files = {p.name: p.stat().st_size for p in sorted(target.iterdir())}
    if config.output == "json":
        told = {"to": str(target), "family": family.model_type, "files": files, "tokenizer": tokenizer}
        print(json.dumps(told))
        return
    listed = "\n".join(f"  {size:>14,}  {name}" for name, size in files.items())
    print(f"{target}: a {family.model_type} ({family.architecture})\n{listed}")
    if tokenizer is not None:
        print(f"no tokenizer: {tokenizer}")


def _context(loaded: Loaded, origin: Found | None) -> int:
    """`max_position_embeddings`: the learned table's length, what the model came with, or what it was trained at."""
    learned = loaded.config.model.max_length()
    return learned or (origin and origin.length) or loaded.config.trainer.sequence_length


def _special_ids(loaded: Loaded) -> dict[str, Any]:
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        return {}
    eos = list(getattr(tokenizer, "eos_ids", ()))
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": eos if len(eos) > 1 else tokenizer.eos_id,
    }
