"""A stand-in for the REST service behind `gcloud compute tpus`: it keeps state, and its workers are real sshds.

Queued resources go ACCEPTED, PROVISIONING, ACTIVE, a state with each look at them; their nodes come with ACTIVE. Each
worker is an sshd on a loopback address of its own (127.0.0.11, ...), which knows no key until the metadata of its node
holds one, as on a real TPU VM. Deletion and preemption end the sshds with all that ran on the workers, and wipe their
disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.launch.programs import kill, until

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
GOING = ("ACCEPTED", "PROVISIONING", "ACTIVE")
CODES = {"NOT_FOUND": 404, "ALREADY_EXISTS": 409, "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429}


class Problem(Exception):
    """An error of the service: its status, such as NOT_FOUND, and its message."""


@dataclass
class Service:
    """The service and the machines behind it.

    folder   of keys, logs and configurations of the sshds
    disk     that the workers share; wiped when a node goes
    workers  of each node
    states   that a queued resource goes through
    refuse   the error that a creation ends with; None: none
    """

    folder: Path
    disk: Path
    workers: int = 2
    states: tuple[str, ...] = GOING
    refuse: tuple[str, str] | None = None
    ssh_port: int = 0
    queued: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    sshds: dict[str, list[subprocess.Popen]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        if not self.ssh_port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.ssh_port = free.getsockname()[1]
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "host")], check=True
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server.server_address[1]}/"

    def close(self) -> None:
        """Ends it and all machines."""
        for name in list(self.nodes):
            self.end_node(name)
        self.server.shutdown()
        self.server.server_close()

    # ---- machines

    def begin_node(self, name: str, spec: dict[str, Any], parent: str) -> None:
        """A node whose workers are up."""
        number = len(self.made) * 10 + len(self.nodes)
        addresses = [f"127.0.0.{11 + len(self.nodes) * self.workers + i}" for i in range(self.workers)]
        self.nodes[name] = {
            **spec,
            "name": f"{parent}/nodes/{name}",
            "id": str(7000 + number),
            "state": "READY",
            "apiVersion": "V2",
            "health": "HEALTHY",
            "createTime": now(),
            "metadata": dict(spec.get("metadata", {})),
            "networkEndpoints": [
                {"ipAddress": a, "port": 8470, "accessConfig": {"externalIp": a}} for a in addresses
            ],
        }
        (self.folder / f"{name}.keys").write_text("")
        self.sshds[name] = [self.begin_sshd(name, address) for address in addresses]
        for address in addresses:
            until(lambda address=address: socket.socket().connect_ex((address, self.ssh_port)) == 0)

    def begin_sshd(self, node: str, address: str) -> subprocess.Popen:
        """One worker."""
        config = self.folder / f"sshd-{address}.conf"
        config.write_text(
            f"Port {self.ssh_port}\nListenAddress {address}\nHostKey {self.folder}/host\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder}/{node}.keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "PermitRootLogin prohibit-password\nMaxStartups 100\nSubsystem sftp internal-sftp\n"
        )
        log = self.folder / f"sshd-{address}.log"
        return subprocess.Popen([SSHD, "-D", "-f", str(config), "-E", str(log)])

    def end_node(self, name: str) -> None:
        """Takes a node away with all that runs on it and its disk."""
        del self.nodes[name]
        for server in self.sshds.pop(name):
            for child in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
            server.kill()
            server.wait()
        if not self.nodes:
            for path in self.disk.glob("launches/*/*/*/*.pid"):
                kill(path)
            shutil.rmtree(self.disk, ignore_errors=True)

    # ---- queued resources

    def create(self, parent: str, name: str, body: dict[str, Any]) -> None:
        """A new queued resource."""
        if self.refuse is not None:
            raise Problem(*self.refuse)
        if name in self.queued:
            raise Problem("ALREADY_EXISTS", f"Resource '{parent}/queuedResources/{name}' already exists")
        self.made.append(json.loads(json.dumps(body)))
        self.queued[name] = {**body, "name": f"{parent}/queuedResources/{name}", "createTime": now()}
        self.queued[name]["state"] = {"state": "CREATING"}

    def look(self, name: str) -> dict[str, Any]:
        """A queued resource, which is a state further with each look."""
        found = self.queued[name]
        state = found["state"]["state"]
        order = ("CREATING", *self.states)
        if state in order[:-1]:
            state = order[order.index(state) + 1]
            told: dict[str, Any] = {"state": state}
            found["state"] = told
            if state == "FAILED":
                message = "no more capacity in the zone"
                told["failedData"] = {"error": {"code": 8, "message": message}}
            if state == "ACTIVE":
                self.provide(name)
        return found

    def provide(self, name: str) -> None:
        """The nodes of a queued resource; several are told one by one from then on, as the service does."""
        found = self.queued[name]
        parent = found["name"].rpartition("/queuedResources/")[0]
        spec = found["tpu"]["nodeSpec"][0]
        several = spec.get("multisliceParams")
        ids = [spec.get("nodeId")]
        if several:
            ids = [f"{several.get('nodeIdPrefix', name)}-{i}" for i in range(several["nodeCount"])]
        for node in ids:
            self.begin_node(node, spec["node"], parent)
        found["tpu"]["nodeSpec"] = [{"parent": parent, "nodeId": i, "node": spec["node"]} for i in ids]

    def preempt(self, name: str) -> None:
        """Takes the machines of a queued resource away."""
        with self.lock:
            for spec in self.queued[name]["tpu"]["nodeSpec"]:
                self.end_node(spec["nodeId"])
            self.queued[name]["state"] = {"state": "SUSPENDED", "stateInitiator": "SERVICE"}

    def delete(self, name: str, force: bool) -> None:
        """Deletes a queued resource, with its nodes where that is said."""
        nodes = [spec.get("nodeId") for spec in self.queued[name]["tpu"]["nodeSpec"]]
        there = [node for node in nodes if node in self.nodes]
        if there and not force:
            raise Problem("FAILED_PRECONDITION", f"{name} has nodes")
        for node in there:
            self.end_node(node)
        del self.queued[name]

    def patch_node(self, name: str, body: dict[str, Any]) -> None:
        """New metadata of a node; its keys are known on the workers at once."""
        self.nodes[name]["metadata"] = body.get("metadata", {})
        lines = self.nodes[name]["metadata"].get("ssh-keys", "").splitlines()
        keys = [line.partition(":")[2] for line in lines if ":" in line]
        (self.folder / f"{name}.keys").write_text("\n".join(keys) + "\n")

    def attributes(self, name: str) -> dict[str, Any]:
        """What the workers of a node tell of themselves."""
        key = (self.folder / "host.pub").read_text().split()[1]

        def item(namespace: str, key: str, value: str) -> dict[str, str]:
            return {"namespace": namespace, "key": key, "value": value}

        items = [item("hostkeys", "ssh-ed25519", key), item("guest", "hostname", f"t1v-n-{name}-w-0")]
        count = len(self.nodes[name]["networkEndpoints"])
        return {"guestAttributes": [{"queryValue": {"items": items}} for _ in range(count)]}

    # ---- requests

    def answer(self, method: str, url: str, body: dict[str, Any]) -> Any:
        """The answer to a request; Problem where it is refused."""
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        self.asked.append(f"{method} {path}")
        project = re.fullmatch(r"/compute/v1/projects/([\w-]+)", path)
        if project:
            return {"name": project[1], "kind": "compute#project", "commonInstanceMetadata": {"items": []}}
        match = re.fullmatch(r"/v2/(projects/([\w-]+)/locations/[\w-]+)/(\w+)(?:/([\w-]+))?(?::(\w+))?", path)
        if match is None:
            raise Problem("NOT_FOUND", f"{method} {path} is not known here")
        parent, project_name, sort, name, verb = match.groups()
        if project_name == "forbidden":
            raise Problem("PERMISSION_DENIED", f"Permission 'tpu.{sort}.get' denied on resource '{parent}'")
        if sort == "operations":
            return {"name": f"{parent}/operations/{name}", "done": True, "response": self.results[name]}
        if sort == "queuedResources" and method == "POST":
            name = query["queuedResourceId"][0]
            self.create(parent, name, body)
            return self.operation(parent, self.queued[name])
        there = self.queued if sort == "queuedResources" else self.nodes
        if name is None:
            return {sort: list(there.values())}
        if name not in there:
            raise Problem("NOT_FOUND", f"Resource '{parent}/{sort}/{name}' was not found")
        if method == "DELETE":
            self.delete(name, query.get("force", [""])[0].lower() == "true")
            return self.operation(parent, {})
        if method == "PATCH":
            self.patch_node(name, body)
            return self.operation(parent, self.nodes[name])
        if verb == "getGuestAttributes":
            return self.attributes(name)
        return self.look(name) if sort == "queuedResources" else there[name]

    results: dict[str, Any] = field(default_factory=dict)

    def operation(self, parent: str, result: dict[str, Any]) -> dict[str, Any]:
        """An operation that is done at the first look at it."""
        name = f"operation-{len(self.results)}"
        self.results[name] = result
        return {"name": f"{parent}/operations/{name}", "done": False}


def now() -> str:
    """The time as the service writes it."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.{time.time_ns() % 10**9:09d}Z"


def handler(service: Service) -> type[BaseHTTPRequestHandler]:
    """HTTP for a service."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            """Any method."""
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or b"{}")
            try:
                with service.lock:
                    code, found = 200, service.answer(self.command, self.path, body)
            except Problem as problem:
                status, message = problem.args
                code = CODES.get(status, 400)
                found = {"error": {"code": code, "message": message, "status": status}}
            data = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = do

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    return Handler
