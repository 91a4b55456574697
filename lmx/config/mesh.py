"""`mesh`: how many devices each mesh axis has, and which logical axes are split over which mesh axes."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Positive


class Mesh(Config):
    """Mesh axes in order, outermost first, and the rules that lay logical axes over them."""

    axes: dict[str, Positive | Literal["auto"]] = field(
        "devices along each mesh axis; one of them may be auto: what the others leave", effect="throughput"
    )
    rules: dict[str, list[str] | str | None] = field(
        "logical axis -> mesh axis (or several): parameters embed, ffn, heads, kv_heads, head, vocab, "
        "layers; activations batch, length, act_embed, act_ffn, act_heads, act_kv_heads, act_vocab",
        effect="throughput",
    )
