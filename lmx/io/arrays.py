"""Trees of arrays to and from disk: the few calls to Orbax, which is imported on first use."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

FOLDER = "state"


class _WithoutEcho(logging.Filter):
    """Drops Orbax's own traces of an error that reaches its caller anyway."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "_SignalingThread.run() raised" not in str(record.msg)


def orbax() -> Any:
    """`orbax.checkpoint.v1`."""
    from orbax.checkpoint import v1

    logger = logging.getLogger("absl")
    if not any(isinstance(f, _WithoutEcho) for f in logger.filters):
        logger.addFilter(_WithoutEcho())
    return v1


def _empty(leaf: Any) -> bool:
    return 0 in leaf.shape


def _drop_empty(nested: dict[str, Any]) -> dict[str, Any]:
    """Without arrays of no elements, which Orbax refuses."""
    kept: dict[str, Any] = {}
    for key, node in nested.items():
        if isinstance(node, dict):
            if inner := _drop_empty(node):
                kept[key] = inner
        elif not _empty(node):
            kept[key] = node
    return kept


def _fill_empty(loaded: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for key, node in wanted.items():
        if isinstance(node, dict):
            filled[key] = _fill_empty(loaded.get(key, {}), node)
        else:
            filled[key] = (
                jnp.zeros(node.shape, node.dtype, device=node.sharding) if _empty(node) else loaded[key]
            )
    return filled


def save(folder: Path, nested: dict[str, Any], *, compress: bool) -> Callable[[], None]:
    """Starts to write nested dicts of arrays into `folder/state`; call the result to wait for the end.

    Returns once the arrays may be donated or changed. Every process of a job calls this.
    """
    ocp = orbax()
    context = ocp.Context()
    context.array.saving.use_compression = compress
    with context:
        response = ocp.save_async(folder / FOLDER, _drop_empty(nested))
    return response.result


def raising(error: Exception) -> Callable[[], None]:
    """What `save` would have returned, where it raised `error`: a process that cannot begin is one that fails."""

    def fail() -> None:
        raise error

    return fail


def load(folder: Path, wanted: dict[str, Any], *, partial: bool) -> dict[str, Any]:
    """Loads `folder/state` as `wanted`: nested dicts of ShapeDtypeStructs that all carry shardings.

    With `partial`, `wanted` may be a part of what is on disk. dtypes are converted to the wanted ones.
    Raises ValueError with Orbax's innermost message.
    """
    if any(leaf.sharding is None for leaf in jax.tree.leaves(wanted)):
        # Orbax would lay it out as it was saved, over devices that may not be here.
        raise ValueError("every leaf to be loaded needs a sharding; some ShapeDtypeStructs have none")
    ocp = orbax()
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    try:
        with context:
            loaded = ocp.load(folder / FOLDER, _drop_empty(wanted))
    except Exception as error:
        raise ValueError(f"{folder / FOLDER} cannot be loaded: {innermost(error)}") from error
    filled = _fill_empty(loaded, wanted)
    absent = [leaf for leaf in jax.tree.leaves(filled) if not isinstance(leaf, jax.Array)]
    if absent:  # Orbax hands back the request itself for what it did not find
        raise ValueError(f"{folder / FOLDER} lacks {len(absent)} of the arrays that its manifest lists")
    return filled


def innermost(error: BaseException) -> BaseException:
    """The first cause of an exception."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def is_storage_error(error: BaseException) -> bool:
    """Whether the disk failed (full, quota, gone), not the program."""
    node: BaseException | None = error
    while node is not None:
        if isinstance(node, OSError) or "os_error_code" in str(node) or "Failed writing" in str(node):
            return True
        node = node.__cause__ or node.__context__
    return False


def say_storage_error(error: BaseException) -> str:
    """The error in a few words: `No space left on device`."""
    cause = innermost(error)
    text = str(cause)
    if isinstance(cause, OSError) and cause.errno is None:  # said by lmx itself
        return text
    for known in ("No space left on device", "Disk quota exceeded", "File too large", "Input/output error"):
        if known in text:
            return known
    return text.splitlines()[0][:300] if text else type(error).__name__
