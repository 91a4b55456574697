"""Who is there, and where: the processes of a run tell each other by the coordination service, without any device."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import jax


class RollCall:
    """Accounts of all processes under a name. In a run of one process there is only its own."""

    def __init__(self) -> None:
        self.mine, self.count = jax.process_index(), jax.process_count()
        self.names = {self.mine: f"process {self.mine} on {platform.node()} (pid {os.getpid()})"}
        if self.count > 1:
            _client().key_value_set(f"lmx/name/{self.mine}", self.names[self.mine], allow_overwrite=True)

    def call(self, what: str, account: str, patience: float) -> dict[int, str]:
        """Process -> what it calls this with, of those that do within `patience` seconds."""
        found = {self.mine: account}
        if self.count == 1:
            return found
        until = time.monotonic() + patience
        try:
            _client().key_value_set(f"lmx/{what}/{self.mine}", account, allow_overwrite=True)
        except Exception:  # the service itself is gone, and process 0 with it
            return found
        for other in range(self.count):
            if other != self.mine and (said := _ask(f"lmx/{what}/{other}", until)) is not None:
                found[other] = said
        return found

    def address(self) -> str:
        """host:port of the coordination service, which is a part of process 0."""
        from jax._src import distributed

        return str(distributed.global_state.coordinator_address)

    def name(self, process: int) -> str:
        """Number, host and process id."""
        if process not in self.names:
            said = _ask(f"lmx/name/{process}", time.monotonic() + 1)
            if said is None:
                return f"process {process}"
            self.names[process] = said
        return self.names[process]


def tell(what: str, account: str) -> None:
    """Leaves this process's account under a name; where the service is gone, nothing happens."""
    try:
        _client().key_value_set(f"lmx/{what}/{jax.process_index()}", account, allow_overwrite=True)
    except Exception:  # the run itself will say so
        return


def everybody(what: str) -> dict[int, str]:
    """Process -> the account that it left last; of those that did. Waits for nobody."""
    try:
        found = _client().key_value_dir_get(f"lmx/{what}/")
    except Exception:
        return {}
    return {int(key.rpartition("/")[2]): said for key, said in found}


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client


def _ask(key: str, until: float) -> str | None:
    try:
        return _client().blocking_key_value_get(key, max(int(1000 * (until - time.monotonic())), 50))
    except Exception:  # it does not answer in time, or the service is gone
        return None
