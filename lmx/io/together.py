"""What all processes do together: process 0 says what it found, and whether a thing came to its end everywhere.

It is said through the coordination service, and no device takes part: beside a training step that is still under way,
a collective could come to the devices of two processes in two orders, and both would wait without an end.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax

TIMEOUT_S = 600
"""How long a word of process 0 is waited for at a time."""
LOOK_S = 0.25
"""Between two looks of process 0 whether the part of another process has failed."""
_KEPT = 8
"""Words that are not deleted yet: more than the processes are apart."""
_GOOD = "good"

_numbers, _joint_numbers = itertools.count(), itertools.count()
_parts: list[threading.Thread] = []


def _client() -> Any:
    from jax._src import distributed

    client = distributed.global_state.client
    assert client is not None
    return client


def told(found: bool) -> bool:
    """`found` of process 0. Every process calls this as often, and waits for process 0 to come to it.

    Raises what JAX raises where process 0 is gone, or does not come within TIMEOUT_S.
    """
    if jax.process_count() == 1:
        return found
    client, number = _client(), next(_numbers)
    if jax.process_index() > 0:
        return client.blocking_key_value_get(f"lmx/told/{number}", 1000 * TIMEOUT_S) == "True"
    client.key_value_set(f"lmx/told/{number}", str(found))
    if number >= _KEPT:
        client.key_value_delete(f"lmx/told/{number - _KEPT}")
    return found


class Joint:
    """One thing of which every process does a part: good everywhere, or failed everywhere.

    Every process makes as many of these, in one order. Who fails says so, and the others no longer wait for the end
    of their own parts, which may be waiting for what the one that failed would have done.
    """

    def __init__(self) -> None:
        self._alone, self._number = jax.process_count() == 1, next(_joint_numbers)
        self._key = f"lmx/joint/{self._number}"

    @contextmanager
    def done(self, part: Callable[[], None], say: Callable[[BaseException], str]) -> Iterator[None]:
        """Runs `part`; inside, it is done: in process 0 all parts are, and in the others process 0 has gone through.

        Raises the error of this process's own part, or OSError with what `say` makes of another's. What process 0
        raises inside counts as its part's error.
        """
        if self._alone:
            part()
            yield
            return
        errors: list[BaseException] = []
        ended = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(part, say, errors, ended), name="part-of-a-save", daemon=True
        )
        _parts[:] = [thread, *(t for t in _parts if t.is_alive())]
        thread.start()
        if jax.process_index() > 0:
            said = self._verdict()
            if said != _GOOD:
                raise errors[0] if errors else OSError(said)
            yield
            return
        try:
            self._until(ended)
            if errors:
                raise errors[0]
            yield
        except BaseException as error:
            self._end(f"process 0: {say(error)}")
            raise
        self._end(_GOOD)

    def _end(self, said: str) -> None:
        client = _client()
        client.key_value_set(f"{self._key}/end", said)
        if self._number >= _KEPT:
            client.key_value_delete(f"lmx/joint/{self._number - _KEPT}/")

    def _run(
        self,
        part: Callable[[], None],
        say: Callable[[BaseException], str],
        errors: list[BaseException],
        ended: threading.Event,
    ) -> None:
        try:
            part()
        except BaseException as error:
            errors.append(error)
            mine = jax.process_index()
            if mine > 0:
                text = f"process {mine}: {say(error)}"
                _client().key_value_set(f"{self._key}/failed", text, allow_overwrite=True)
        ended.set()

    def _until(self, ended: threading.Event) -> None:
        """Until the own part is over; OSError where another's has failed."""
        while not ended.wait(LOOK_S):
            try:
                said = _client().key_value_try_get(f"{self._key}/failed")
            except jax.errors.JaxRuntimeError:  # nobody has said anything
                continue
            raise OSError(said)

    def _verdict(self) -> str:
        while True:
            try:
                return _client().blocking_key_value_get(f"{self._key}/end", 1000 * TIMEOUT_S)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise


def stuck() -> bool:
    """Whether a part of this process is still waiting, though what it belongs to was given up."""
    return any(thread.is_alive() for thread in _parts)


def leave(code: int) -> NoReturn:
    """Ends this process in agreement with the others, and leaves behind what is stuck."""
    sys.stdout.flush()
    sys.stderr.flush()
    jax.distributed.shutdown()
    os._exit(code)
