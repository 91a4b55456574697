"""Checkpoints of models that also see: their text model is read, the rest is left aside and named.

Their config.json has the text model's as `text_config`. Its tensors are named `language_model.model.` and
`language_model.lm_head.` in older files, `model.language_model.` and `lm_head.` in newer ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.config.foreign import quoted
from lmx.models.hf.keys import Keys

HEAD = "lm_head.weight"
_TIED = "tie_word_embeddings"


class Wrapper(NamedTuple):
    """A kind of such checkpoints.

    model_type  of its config.json
    text        model_type of its text_config
    assumed     what a key stands for that text_config leaves out, where the text model's own file has to say it
    tied        the same, for tie_word_embeddings
    seeing      keys of config.json that say nothing of the text model
    aside       what the names of tensors begin with (after `model.`, where they have that) that are no text model's
    """

    model_type: str
    text: str
    assumed: dict[str, Any]
    tied: bool
    seeing: tuple[str, ...]
    aside: tuple[str, ...]


_TOKENS = ("image_token_index", "image_token_id", "boi_token_index", "eoi_token_index")

WRAPPERS = {
    wrapper.model_type: wrapper
    for wrapper in (
        Wrapper(
            "gemma3",
            "gemma3_text",
            {
                "vocab_size": 262208,
                "hidden_size": 2304,
                "intermediate_size": 9216,
                "num_hidden_layers": 26,
                "num_attention_heads": 8,
            },
            True,
            ("mm_tokens_per_image",),
            ("vision_tower", "multi_modal_projector"),
        ),
        Wrapper("llama4", "llama4_text", {}, False, (), ("vision_model", "multi_modal_projector")),
        Wrapper(
            "mistral3",
            "mistral",
            {},
            False,
            (
                "projector_hidden_act",
                "vision_feature_layer",
                "multimodal_projector_bias",
                "spatial_merge_size",
            ),
            ("vision_tower", "multi_modal_projector"),
        ),
    )
}
"""By `model_type`."""


def text_config(raw: dict[str, Any], where: str | Path) -> dict[str, Any]:
    """The text model's config.json; RequestError for keys beside it whose meaning is not known."""
    wrapper = WRAPPERS[raw["model_type"]]
    keys = Keys(raw, where)
    keys.ignore("vision_config", *_TOKENS, *wrapper.seeing)
    told = keys.given("text_config", {})
    if not isinstance(told, dict):
        keys.refuse("text_config", told)
    tied, quantised = keys.take(_TIED, None), keys.take("quantization_config", None)
    keys.expect("is_encoder_decoder", False)
    keys.finish()
    unsaid = {"model_type": wrapper.text, _TIED: wrapper.tied if tied is None else tied}
    text = unsaid | wrapper.assumed | told
    if text["model_type"] != wrapper.text:
        keys.refuse("text_config.model_type", text["model_type"])
    if tied not in (None, text[_TIED]):
        raise RequestError(
            f"{where}: {_TIED} is {quoted(tied)}, and that of its text_config {quoted(text[_TIED])}: readers "
            "differ in which of them they take; make them the same"
        )
    return text if quantised is None else text | {"quantization_config": quantised}


def settle_tie(raw: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A config.json whose `tie_word_embeddings: true` beside a text_config without it means: where no head is stored.

    That is how it is read since transformers 5, which writes it so.
    """
    wrapper, text = WRAPPERS[raw["model_type"]], raw.get("text_config")
    if raw.get(_TIED) is not True or not isinstance(text, dict) or text.get(_TIED, wrapper.tied):
        return raw
    tied = not any(text_name(name) == HEAD for name in names)
    return raw | {_TIED: tied, "text_config": text | {_TIED: tied}}


def text_name(name: str) -> str:
    """What a tensor of the text model is named where it stands alone."""
    name = re.sub(r"^language_model\.(?=model\.|lm_head\.)", "", name)
    return re.sub(r"^model\.language_model\.(model\.)?", "model.", name)


def parts(wrapper: Wrapper, names: Iterable[str]) -> tuple[dict[str, str], str]:
    """Name -> that of the text model's tensor, and what is said of those left aside; "" where there are none."""
    kept: dict[str, str] = {}
    aside: Counter[str] = Counter()
    for name in names:
        part = name.removeprefix("model.").split(".")[0]
        if part in wrapper.aside:
            aside[part] += 1
        else:
            kept[name] = text_name(name)
    listed = ", ".join(f"{n} tensors of {part}" for part, n in sorted(aside.items()))
    told = f"the text model ({wrapper.text}) of a {wrapper.model_type} alone; left aside: {listed}"
    return kept, told if aside else ""
