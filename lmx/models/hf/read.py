"""The `config.json` of a checkpoint directory. Free of jax, so that a configuration can be composed from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from lmx.config.errors import RequestError
from lmx.config.foreign import cut, quoted
from lmx.io.safetensors import find_tensors
from lmx.models.config import Decoder
from lmx.models.hf.families import FAMILIES
from lmx.models.hf.family import Family
from lmx.models.hf.fields import to_decoder
from lmx.models.hf.keys import CONFIG, Keys, read_json
from lmx.models.hf.multimodal import WRAPPERS, Wrapper, settle_tie, text_config
from lmx.models.position import DynamicScaling, LinearScaling, YarnScaling

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


_SIZES = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    max_position_embeddings n_embd n_layer n_head n_positions n_inner
"""
"""Keys of all families that hold sizes."""

MOST_LAYERS = 10_000
"""More than any model has: lists of this length are made before anything else is known to be sound."""


class Found(NamedTuple):
    """What a `config.json` says.

    family  whose checkpoint it is
    config  the Decoder that it describes
    fields  the same as a nested dict, without what a checkpoint does not decide (initial values, dropout, loops)
    raw     the file; of a model that also sees, its text model's
    wrapper of a model that also sees: which kind
    length  max_position_embeddings, the family's own where the file does not say it
    off     keys that the family does not know and that ask for nothing: passed over
    """

    family: Family
    config: Decoder
    fields: dict[str, Any]
    raw: dict[str, Any]
    wrapper: Wrapper | None = None
    length: int | None = None
    off: dict[str, Any] | None = None

    @property
    def context(self) -> int | None:
        """Positions that the model was made for, with a rope that is stretched beyond `length`; None: not known."""
        ropes = list(self.config.position.ropes.values())
        if (
            self.length is None or len(ropes) != 1
        ):  # of several ropes, the length counts what one is stretched by
            return self.length
        match ropes[0].scaling:
            case LinearScaling(factor=factor) | DynamicScaling(factor=factor):
                return int(self.length * factor)
            case YarnScaling(factor=factor, original_length=original):
                return max(self.length, int(original * factor))
        return self.length


def is_checkpoint(path: Path) -> bool:
    """Whether a directory looks like a HuggingFace checkpoint: it has a config.json, or weights of one."""
    return any((path / name).is_file() for name in (CONFIG, *WEIGHTS))


def read_config(folder: str | Path) -> Found:
    """The family and the Decoder of a checkpoint; RequestError naming what is missing, unknown or not supported."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such directory")
    path = folder / CONFIG
    if not path.is_file():
        raise RequestError(
            f"{folder}: has no {CONFIG}, without which the weights have no meaning; copy it too"
        )
    raw = read_json(path)
    kind = raw.get("model_type")
    if isinstance(kind, str) and kind in WRAPPERS and any((folder / name).is_file() for name in WEIGHTS):
        raw = settle_tie(raw, find_tensors(folder))
    return parse_config(raw, path)


def parse_config(raw: dict[str, Any], where: str | Path) -> Found:
    """See `read_config`."""
    kind = raw.get("model_type")
    wrapper = WRAPPERS.get(kind) if isinstance(kind, str) else None
    if wrapper is not None:
        raw, kind = text_config(raw, where), wrapper.text
    if not isinstance(kind, str) or kind not in FAMILIES:
        told = "lacks model_type" if kind is None else f"model_type={quoted(kind)} is not known"
        known = ", ".join([*FAMILIES, *WRAPPERS])
        raise RequestError(f"{where}: {told}; known are {known}")
    family = FAMILIES[kind]
    keys = Keys(raw, where)
    for name in _SIZES.split():
        value = raw.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise RequestError(f"{where}: {name}={quoted(value)}, where a whole number above 0 belongs")
        if value is not None and "layer" in name and value > MOST_LAYERS:
            raise RequestError(f"{where}: {name}={quoted(value)}, where at most {MOST_LAYERS:,} can be")
    quantised = keys.take("quantization_config", None)
    if quantised is not None and quantised.get("quant_method") not in family.quantised:
        keys.refuse("quantization_config", quantised)
    keys.expect("is_encoder_decoder", False)
    keys.expect("is_decoder", False, True)
    keys.expect("add_cross_attention", False)
    keys.expect("cross_attention_hidden_size", None)
    keys.expect("pruned_heads", {}, None)
    keys.expect("tie_encoder_decoder", False)
    keys.expect("use_bidirectional_attention", False, None)
    try:
        fields = family.read(keys)
        keys.finish()
        length = keys.taken.get("max_position_embeddings") or keys.taken.get("n_positions")
        return Found(family, to_decoder(fields), fields, raw, wrapper, length, keys.off)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RequestError(
            f"{where}: makes no model: {key}={quoted(first.get('input'))}: {cut(first['msg'], 300)}"
        ) from None
    except (TypeError, AttributeError, ZeroDivisionError) as error:
        raise RequestError(f"{where}: holds a value of the wrong kind: {cut(str(error), 300)}") from error
