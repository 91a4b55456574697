"""What process 0 has found, told to all processes through the coordination service.

No device takes part: beside a training step that is still under way, a collective could come to the devices of two
processes in two orders, and both would wait without an end.
"""

from __future__ import annotations

import itertools

import jax

TIMEOUT_S = 600
_KEPT = 8
"""Words that are not deleted yet: more than the processes are apart."""

_numbers = itertools.count()


def told(found: bool) -> bool:
    """`found` of process 0. Every process calls this as often, and waits for process 0 to come to it.

    Raises what JAX raises where process 0 is gone, or does not come within TIMEOUT_S.
    """
    if jax.process_count() == 1:
        return found
    from jax._src import distributed

    client, number = distributed.global_state.client, next(_numbers)
    assert client is not None
    if jax.process_index() > 0:
        return client.blocking_key_value_get(f"lmx/told/{number}", 1000 * TIMEOUT_S) == "True"
    client.key_value_set(f"lmx/told/{number}", str(found))
    if number >= _KEPT:
        client.key_value_delete(f"lmx/told/{number - _KEPT}")
    return found
