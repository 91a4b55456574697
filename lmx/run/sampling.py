"""How the tokens of a request are chosen: by what was asked, and where that is `auto`, by generation_config.json."""

from __future__ import annotations

import json
from typing import Any

from lmx.config.errors import RequestError
from lmx.run.infer_config import Sampling
from lmx.run.load import Loaded

PLAIN = {
    "temperature": 0.8,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "repetition_penalty": None,
    "max_new_tokens": 128,
}
"""What `auto` means where the model's directory says nothing."""

OFF: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "top_h": (1.0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ({}, []),
    "token_healing": (False,),
    "guidance_scale": (1.0,),
    "watermarking_config": (),
    "penalty_alpha": (0.0,),
    "dola_layers": (),
}
"""What else would change which tokens are chosen, and the values with which it does not."""

_KINDS: dict[str, Any] = {
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), (int, float)),
    **dict.fromkeys(("top_k", "max_new_tokens"), int),
    "do_sample": bool,
}


def told_by_directory(loaded: Loaded, config: Sampling) -> dict[str, Any]:
    """generation_config.json, {} where there is none or it is to be left alone.

    RequestError for what it asks and the engine does not do.
    """
    if config.generation_config == "ignore":
        return {}
    told: dict[str, Any] = getattr(loaded.vocabulary, "generation", None) or {}
    for key, kinds in _KINDS.items():
        value = told.get(key)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) != (kinds is bool)):
            raise RequestError(
                f"from={config.source}: its generation_config.json has {key}={json.dumps(value)}, where "
                f"{'true or false belongs' if kinds is bool else 'a number belongs'}\n"
                "    fix: generation_config=ignore samples without the file"
            )
    for key, off in OFF.items():
        value = told.get(key)
        if value is not None and value not in off:
            raise RequestError(
                f"from={config.source}: its generation_config.json has {key}={json.dumps(value)}, which is not "
                "supported\n    fix: generation_config=ignore samples without the file"
            )
    return told


def defaults(told: dict[str, Any]) -> dict[str, Any]:
    """The values of `auto`, given the content of generation_config.json.

    As in transformers, `do_sample: false` is greedy whatever temperature and the like the file has; a file that
    has them and does not say `do_sample` means them.
    """
    found: dict[str, Any] = dict(PLAIN)
    drawing = ("temperature", "top_k", "top_p", "min_p")
    drawn = told.get("do_sample", any(told.get(key) is not None for key in drawing))
    if drawn:
        found |= {"temperature": told.get("temperature") or 1.0, "top_k": told.get("top_k") or None}
        found |= {key: told.get(key) for key in ("top_p", "min_p")}
    elif "do_sample" in told:
        found["temperature"] = 0.0
    found["repetition_penalty"] = told.get("repetition_penalty")
    found["max_new_tokens"] = told.get("max_new_tokens") or found["max_new_tokens"]
    return found


def new_tokens(loaded: Loaded, config: Sampling, settled: int, n_prompt: int) -> int:
    """`max_new_tokens` after a prompt of `n_prompt` tokens, given what `sampling_knobs` settled.

    Where neither the request nor the directory says it, no more than the context has room for.
    """
    told = config.max_new_tokens != "auto" or told_by_directory(loaded, config).get("max_new_tokens")
    if told or loaded.max_length is None or n_prompt >= loaded.max_length:
        return settled
    return min(settled, loaded.max_length - n_prompt)


def sampling_knobs(loaded: Loaded, config: Sampling) -> dict[str, Any]:
    """The fields of a `Request` that say how it is sampled; `auto` is settled here."""
    told = told_by_directory(loaded, config)
    asked = {key: getattr(config, key) for key in PLAIN}
    own = defaults(told)
    settled = {key: own[key] if value == "auto" else value for key, value in asked.items()}
    stop = [config.stop] if isinstance(config.stop, str) else list(config.stop or [])
    if stop and loaded.tokenizer is None:
        raise ValueError(
            "stop: the directory has no tokenizer, so texts cannot be found; use stop_tokens=[...]"
        )
    listed = told.get("stop_strings") or []
    if not config.ignore_eos and loaded.tokenizer is not None:
        stop += [listed] if isinstance(listed, str) else listed
    others = ("presence_penalty", "frequency_penalty", "seed")
    return (
        settled
        | {key: getattr(config, key) for key in others}
        | {"logit_bias": dict(config.logit_bias or {}), "stop": stop, "stop_tokens": stop_ids(loaded, config)}
    )


def stop_ids(loaded: Loaded, config: Sampling) -> list[int]:
    """The ids that end a continuation: those asked for, and the model's own unless they are to be ignored."""
    ids = list(config.stop_tokens or [])
    if not config.ignore_eos:
        eos = loaded.vocabulary.eos_id
        ids += getattr(loaded.vocabulary, "eos_ids", None) or ([] if eos is None else [eos])
    return list(dict.fromkeys(int(i) for i in ids))
