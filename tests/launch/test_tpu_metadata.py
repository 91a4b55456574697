"""What a launched process finds out on a TPU pod: JAX's own detection, unmodified, asks a metadata server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support import ROOT, read_option

# On a machine without TPU chips JAX sets this variable when it is imported, and then asks nobody.
PROGRAM = """
import json, os, sys
import jax
os.environ.pop("TPU_SKIP_MDS_QUERY", None)
from lmx.run.hosts import join
from lmx.run.hosts_config import Distributed
join(Distributed.model_validate(json.loads(sys.argv[1])))
print(json.dumps([jax.process_index(), jax.process_count(), jax.device_count()]))
"""


def metadata(attributes):
    """A server that tells one worker about its pod."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = attributes.get(self.path.rpartition("/")[2])
            data = (found or "not found").encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize(("slices", "workers"), [(1, 2), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_workers_of_all_slices_find_each_other(slices, workers):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    servers, started = [], []
    for i in range(slices * workers):
        slice_, worker = divmod(i, workers)
        environment = f"ACCELERATOR_TYPE: 'v4-16'\nWORKER_ID: '{worker}'\n"
        if slices > 1:
            environment += f"MEGASCALE_NUM_SLICES: '{slices}'\nMEGASCALE_SLICE_ID: '{slice_}'\n"
            environment += "MEGASCALE_COORDINATOR_ADDRESS: '127.0.0.1:8080'\n"
        attributes = {
            "agent-worker-number": str(worker),
            "worker-network-endpoints": ",".join(f"w{k}:{k}:127.0.0.1" for k in range(workers)),
            "tpu-env": environment,
        }
        servers.append(metadata(attributes))
        variables = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_FORCE_TPU_INIT": "1",
            "GCE_METADATA_IP": f"127.0.0.1:{servers[-1].server_address[1]}",
            "JAX_COORDINATOR_PORT": str(port),
        }
        command = [sys.executable, "-c", PROGRAM, json.dumps(read_option("distributed", "auto"))]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=variables, **pipes))
    try:
        for i, process in enumerate(started):
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0, err
            assert json.loads(out) == [i, slices * workers, slices * workers]
    finally:
        for process in started:
            process.kill()
        for server in servers:
            server.shutdown()
            server.server_close()
