"""Rematerialisation: what the backward pass finds in memory, and what it computes once more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

POLICIES: dict[str, Any] = {
    "full": None,
    "dots": jax.checkpoint_policies.checkpoint_dots,
    "dots_no_batch": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "attention": {"attention_context": "save"},
    "block_io": {"attention_out": "save", "mlp_out": "save"},
}
"""The named policies; a mapping is one by tensor."""


def policy(remat: str | Mapping[str, str]) -> Any:
    """The policy of `jax.checkpoint` for `model.remat` (not for `none`)."""
    found = POLICIES[remat] if isinstance(remat, str) else remat
    if not isinstance(found, Mapping):
        return found
    named = {
        where: [name for name, value in found.items() if value == where] for where in ("save", "offload")
    }
    if not named["offload"]:
        return jax.checkpoint_policies.save_only_these_names(*named["save"])
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=named["save"],
        names_which_can_be_offloaded=named["offload"],
        offload_src="device",
        offload_dst="pinned_host",
    )


def rematerialised(block: Callable, remat: str | Mapping[str, str], *, scanned: bool) -> Callable:
    """`block`, whose backward pass finds only what `remat` says; `block` itself for `none`."""
    if remat == "none":
        return block
    # Inside a scan nothing can be merged with the forward pass, and the barriers against that would cost.
    return jax.checkpoint(block, policy=policy(remat), prevent_cse=not scanned)
