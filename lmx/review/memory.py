"""Memory of a device at the moments of most in a training step, without compiling it.

State and what the forward pass keeps are known exactly as shapes (`lmx.review.local`); what the compiler needs besides
is counted at three moments: when the head's gradient is summed over devices, when the backward pass is at the last
layer, and when the optimizer needs whole matrices (Muon). That the parts are these was seen in programs compiled for
TPU; experiments/review_accuracy holds both side by side.
"""

from __future__ import annotations

from typing import NamedTuple


class Sizes(NamedTuple):
    """Bytes of one device.

    state        parameters, moments, average, counters
    gradients    of the blocks in the dtype of their products, of all else as the parameters; of all micro-batches
                 together as the parameters
    activations  that the forward pass keeps; `last` of them after the last block
    cast         weights in the compute dtype, as they lie
    layer        weights of the largest block, gathered, in the compute dtype
    block        what a block computes again in its backward pass; 0 where all is kept
    head         the output head as a device multiplies with it, in the compute dtype
    head_sum     its gradient over all tokens, float32, whole; `head_part`: as large a part of it as of `head`
    logits       float32 logits of a chunk of tokens, and their gradient
    matrices     what the optimizer holds beside gradients and state while it updates; 0 for elementwise rules
    """

    state: int
    gradients: int
    activations: int
    last: int
    cast: int
    layer: int
    block: int
    head: int
    head_sum: int
    head_part: int
    logits: int
    matrices: int = 0


class Memory(NamedTuple):
    """The parts of the largest moment, in the order of a table; `peak` is their sum."""

    moment: str
    parts: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes of a device."""
        return sum(self.parts.values())


def memory(sizes: Sizes, *, keeps_cast: bool) -> Memory:
    """The largest of the moments. `keeps_cast`: whether weights in the compute dtype are kept through the loss."""
    summed = sizes.head_sum + sizes.head_part
    computed = sizes.head + sizes.head_part + sizes.logits
    loss = {
        "state": sizes.state,
        "kept activations": sizes.activations,
        "cast weights": sizes.cast if keeps_cast else 0,
        "head and its gradient": max(summed, computed),
    }
    backward = {
        "state": sizes.state,
        "kept activations": sizes.activations - sizes.last,
        "cast weights": sizes.cast,
        "gradients": sizes.gradients,
        "gathered weights": 2 * sizes.layer,
        "a block's own": sizes.block,
    }
    update = {"state": sizes.state, "gradients": sizes.gradients, "whole matrices": sizes.matrices}
    found = [Memory("loss", loss), Memory("backward pass", backward), Memory("optimizer's update", update)]
    return max(found, key=lambda m: m.peak)
