"""A `config.json`, read so that no key of it is passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError
from lmx.config.foreign import parse_json, quoted, quoted_key

CONFIG = "config.json"
REQUIRED: Any = object()
_SHOWN = 12
"""Keys that are shown of those that nobody took."""

_CHANGES_NO_LOGITS = """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash
    _flash_attn_2_enabled _name_or_path architectures attention_dropout attention_probs_dropout_prob
    attn_implementation attn_pdrop auto_map bad_words_ids begin_suppress_tokens bos_token_id
    cache_implementation chunk_size_feed_forward classifier_dropout cls_token_id
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop
    embedding_dropout encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id fused_params gradient_checkpointing
    hidden_dropout hidden_dropout_prob id2label initializer_factor initializer_range is_llama_config
    label2id length_penalty logits_to_keep max_length max_new_tokens max_sequence_length min_length
    model_max_length model_type neftune_noise_alpha no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_router_logits output_scores
    pad_token_id prefix pretraining_tp problem_type remove_invalid_values repetition_penalty
    resid_pdrop residual_dropout return_dict return_dict_in_generate router_aux_loss_coef
    router_jitter_noise sep_token_id summary_activation summary_first_dropout summary_proj_to_labels
    summary_type summary_use_proj suppress_tokens task_specific_params temperature tf_legacy_loss
    tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config transformers_version
    typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache
"""

IRRELEVANT = frozenset(_CHANGES_NO_LOGITS.split())
"""Keys that change no logits: training, generation, bookkeeping of the library that wrote them."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
}
"""Their names -> ours; of several for one function the first is written."""


class Keys:
    """The keys of a `config.json`, each taken once; `finish` refuses what nobody took, unless it is off.

    `taken` has their values, the family's own where the file says nothing; `off`, after `finish`, those that nobody
    took and that ask for nothing (null, false, zero, empty). Errors are RequestErrors that name file,
    key and value.
    """

    def __init__(self, raw: dict[str, Any], where: str | Path) -> None:
        self.raw, self.where = dict(raw), where
        self.taken: dict[str, Any] = {}
        self.off: dict[str, Any] = {}
        self._left = set(raw) - IRRELEVANT

    def __contains__(self, name: str) -> bool:
        return name in self.raw

    def take(self, name: str, default: Any = REQUIRED) -> Any:
        """The value of a key; `default` where it is absent, an error where there is none."""
        self._left.discard(name)
        value = self.raw.get(name, default)
        if value is REQUIRED:
            raise RequestError(f"{self.where}: lacks {name}")
        self.taken[name] = value
        return value

    def given(self, name: str, default: Any) -> Any:
        """Like `take`; null counts as absent."""
        value = self.take(name, None)
        return default if value is None else value

    def assume(self, name: str, value: Any) -> None:
        """What a key that is absent or null stands for in this family."""
        if self.raw.get(name) is None:
            self.raw[name] = value

    def expect(self, name: str, *allowed: Any) -> None:
        """Takes a key that may only have one of these values, or be absent."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            self.refuse(name, value)

    def ignore(self, *names: str) -> None:
        """Takes keys that do not matter in this family."""
        self._left.difference_update(names)

    def refuse(self, name: str, value: Any) -> None:
        """RequestError: a value that is not supported."""
        raise RequestError(f"{self.where}: {name}={quoted(value)} is not supported in {self.family}")

    @property
    def family(self) -> str:
        """`model_type`."""
        return quoted_key(self.raw.get("model_type"))

    def activation(self, name: str, default: str = "silu") -> str:
        """Takes the key of an activation: our name for it."""
        value = self.given(name, default)
        if value not in ACTIVATIONS:
            self.refuse(name, value)
        return ACTIVATIONS[value]

    def finish(self) -> None:
        """RequestError naming every key that nobody took and that is not off: what it means is not known."""
        self.off = {name: self.raw[name] for name in sorted(self._left) if not self.raw[name]}
        left = sorted(self._left - self.off.keys())
        if left:
            listed = [f"{quoted_key(name)}={quoted(self.raw[name])}" for name in left[:_SHOWN]]
            listed += [f"{len(left) - _SHOWN} more"] if len(left) > _SHOWN else []
            raise RequestError(
                f"{self.where}: {', '.join(listed)}: not known in {self.family}, so that it may change the model; "
                "remove what does not"
            )


def activation_name(ours: str) -> str:
    """Their name of one of our activations."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; RequestError when the file is missing or holds something else."""
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"{path}: holds no object")
    return value
