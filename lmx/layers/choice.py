"""Which attention kernel a layer gets: where each one runs, what each one cannot do, and what `auto` takes."""

from __future__ import annotations

from typing import NamedTuple


class Needs(NamedTuple):
    """What a layer asks of its attention kernel.

    dtype       of queries, keys and values
    head_dim    width of queries and keys; value_dim: of values
    softcap     whether scores are capped
    sinks       whether a learned score joins each softmax
    """

    dtype: str
    head_dim: int
    value_dim: int
    softcap: bool
    sinks: bool


PLATFORMS = {"splash": "tpu", "cudnn": "gpu"}
"""Kernels that run on one platform only; the others run anywhere."""


def problem(kernel: str, platform: str, needs: Needs) -> str | None:
    """Why a layer cannot have this kernel; None when it can."""
    where = PLATFORMS.get(kernel, platform)
    if where != platform:
        return f"{kernel} runs on {where} only, and the devices here are {platform}"
    if kernel != "cudnn":
        return None
    if needs.dtype not in ("bfloat16", "float16"):
        return f"cudnn computes in bfloat16 or float16, not in {needs.dtype} (trainer.compute_dtype)"
    if needs.softcap:
        return "cudnn has no soft-cap of scores (model.attention.softcap)"
    if needs.sinks:
        return "cudnn has no sinks (model.attention.sinks)"
    if needs.head_dim != needs.value_dim:
        return f"cudnn wants heads of one width, not {needs.head_dim} and {needs.value_dim} (model.attention.latent)"
    if needs.head_dim % 8 or needs.head_dim > 256:
        return f"cudnn wants a head_dim of 8, 16, ..., 256, not {needs.head_dim} (model.head_dim)"
    return None


def automatic(platform: str, n_devices: int, needs: Needs) -> str:
    """What `auto` is: the platform's own kernel where it can serve, else blockwise."""
    if platform == "cpu" and n_devices == 1:
        return "cpu"
    own = next((kernel for kernel, where in PLATFORMS.items() if where == platform), "blockwise")
    return "blockwise" if problem(own, platform, needs) else own


def chosen(asked: str, platform: str, n_devices: int, needs: Needs) -> str:
    """The kernel that `kernels.attention=asked` gives; ValueError where it cannot serve, naming why."""
    if asked == "auto":
        return automatic(platform, n_devices, needs)
    if (why := problem(asked, platform, needs)) is not None:
        cure = automatic(platform, n_devices, needs)
        raise ValueError(f"kernels.attention={asked}: {why}; set kernels.attention={cure}, or auto")
    return asked
