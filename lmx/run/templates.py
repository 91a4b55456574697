"""Conversations as a model's chat template writes them, for `lmx chat` and `lmx generate prompt_as=message`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmx.run.infer_config import Sampling


def templated_ids(tokenizer: Any, messages: Sequence[dict[str, Any]], config: Sampling) -> list[int]:
    """The ids of a conversation up to the model's next reply.

    ValueError where the template refuses it, lacks a variable that is given, or there is no template.
    """
    if getattr(tokenizer, "template", None) is None:
        raise ValueError("the model's directory has no chat template")
    tools = None
    if config.tools is not None:
        tools = json.loads(Path(config.tools).expanduser().read_text(encoding="utf-8"))
    own = config.chat_template_kwargs or {}
    taken = sorted(own.keys() & {"messages", "tools", "add_generation_prompt"})
    if taken:
        raise ValueError(f"chat_template_kwargs: {taken[0]} is not for it to say")
    text = tokenizer.render_chat(messages, add_generation_prompt=True, tools=tools, **own)
    return [int(i) for i in tokenizer.encode(text)]
