"""Target `local`: processes on this machine."""

from __future__ import annotations

import os
import socket

from lmx.launch import gang
from lmx.launch.config import Local
from lmx.launch.host import here
from lmx.launch.target import Plan


def layout(target: Local, plan: Plan) -> gang.Layout:
    """The processes, all on this machine."""
    environment = dict(target.env)
    if target.devices is not None:
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(target.devices)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return gang.Layout(
        hosts=(here(),),
        per_host=target.processes,
        workdir=os.getcwd(),
        coordinator=f"127.0.0.1:{port}",
        environment=environment,
        local=True,
    )
