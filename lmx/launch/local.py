"""Target `local`: processes on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from lmx.launch import gang
from lmx.launch.host import here


def layout(processes: int, devices: int | None, env: Mapping[str, str]) -> gang.Layout:
    """The processes, all on this machine; `devices`: virtual CPU devices of each, None: those of the machine."""
    environment = dict(env)
    if devices is not None:
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return gang.Layout(
        hosts=(here(),),
        per_host=processes,
        workdir=os.getcwd(),
        coordinator=f"127.0.0.1:{port}",
        environment=environment,
        local=True,
    )
