"""Hosts on one machine: network namespaces, each with its own address, name, /etc/hosts and a real sshd.

The file system is common to all, as with NFS. Needs root, iproute2, util-linux and an OpenSSH server.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.launch.programs import until

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
NEEDED = ("ip", "nsenter", "unshare", "ssh", "ssh-keygen")


def missing() -> str | None:
    """Why there can be no namespaces here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces are made by root"
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent or not os.path.exists(SSHD):
        return f"no {', '.join(absent) or 'sshd'} (apt install iproute2 openssh-server openssh-client)"
    name = f"lmxt{os.getpid() % 10000}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    bridge = made and not _run("ip", "link", "add", name, "type", "bridge", check=False)
    _run("ip", "link", "del", name, check=False)
    _run("ip", "netns", "del", name, check=False)
    return None if bridge else "this kernel or container makes no network namespaces"


def _run(*words: str, check: bool = True) -> int:
    return subprocess.run(words, check=check, capture_output=True).returncode


class Network(NamedTuple):
    """The hosts: their addresses, and the words for ssh that reach them."""

    addresses: tuple[str, ...]
    options: list[str]
    prefix: str
    folder: Path

    def inside(self, host: int) -> list[str]:
        """Words before a command that runs it on a host."""
        script = f'hostname {self.prefix}{host}; mount --bind {self.folder}/hosts /etc/hosts; exec "$@"'
        enter = ["nsenter", f"--net=/run/netns/{self.prefix}{host}"]
        return [*enter, "unshare", "--uts", "--mount", "sh", "-c", script, "sh"]

    def link(self, host: int, state: str) -> None:
        """Pulls a host's cable (`down`), or plugs it in again (`up`)."""
        _run("ip", "link", "set", f"{self.prefix}v{host}", state)

    def kill(self, host: int) -> None:
        """SIGKILL to all that runs on a host, its sshd too."""
        done = subprocess.run(
            ["ip", "netns", "pids", f"{self.prefix}{host}"], capture_output=True, text=True, check=True
        )
        for pid in done.stdout.split():
            os.kill(int(pid), signal.SIGKILL)


def subnet() -> str:
    """The first three numbers of all addresses: host i is SUBNET.(i + 1)."""
    return f"10.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}"


@contextmanager
def network(count: int, folder: Path, *, metadata: Sequence[Mapping[str, str]] = ()) -> Iterator[Network]:
    """`count` hosts. `metadata`: what each is told at 169.254.169.254, as workers of a TPU pod are, by path's end."""
    prefix = f"lmx{os.getpid() % 10000}h"
    addresses = tuple(f"{subnet()}.{i + 1}" for i in range(count))
    keys = folder / "keys"
    keys.mkdir(parents=True)
    for name in ("host", "user"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name))
    (keys / "authorized_keys").write_text((keys / "user.pub").read_text())
    lines = [f"{address} {prefix}{i}" for i, address in enumerate(addresses)]
    (folder / "hosts").write_text(
        "\n".join(["127.0.0.1 localhost", "169.254.169.254 metadata.google.internal", *lines]) + "\n"
    )
    sockets = tempfile.mkdtemp(prefix="lmx-")  # a short path: sockets have no long names
    options = [
        "-i",
        str(keys / "user"),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]
    options += ["-o", "LogLevel=ERROR", "-o", f"ControlPath={sockets}/%C"]
    made = Network(addresses, options, prefix, folder)
    Path("/run/sshd").mkdir(exist_ok=True)
    try:
        _run("ip", "link", "add", f"{prefix}b", "type", "bridge")
        _run("ip", "addr", "add", f"{subnet()}.254/24", "dev", f"{prefix}b")
        _run("ip", "link", "set", f"{prefix}b", "up")
        for i in range(count):
            _host(made, i)
        for i, attributes in enumerate(metadata):
            _metadata(made, i, attributes)
        for address in addresses:
            words = ["ssh", *options, "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", address, "true"]
            until(lambda words=words: _run(*words, check=False) == 0)
        yield made
    finally:
        for i in range(count):
            if Path(f"/run/netns/{prefix}{i}").exists():
                made.kill(i)
            _run(
                "ip", "link", "del", f"{prefix}v{i}", check=False
            )  # of itself it goes later than its namespace
            _run("ip", "netns", "del", f"{prefix}{i}", check=False)
        _run("ip", "link", "del", f"{prefix}b", check=False)
        shutil.rmtree(sockets)


def _host(made: Network, i: int) -> None:
    name, address, keys = f"{made.prefix}{i}", made.addresses[i], made.folder / "keys"
    _run("ip", "netns", "add", name)
    _run("ip", "link", "add", f"{made.prefix}v{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
    _run("ip", "link", "set", f"{made.prefix}v{i}", "master", f"{made.prefix}b", "up")
    _run("ip", "-n", name, "link", "set", "lo", "up")
    _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    _run("ip", "-n", name, "link", "set", "eth0", "up")
    config = made.folder / f"sshd-{i}.conf"
    config.write_text(
        f"Port 22\nListenAddress {address}\nHostKey {keys}/host\nPidFile {made.folder}/sshd-{i}.pid\n"
        f"AuthorizedKeysFile {keys}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nMaxStartups 100\n"
    )
    log = made.folder / f"sshd-{i}.log"
    _run(*made.inside(i), SSHD, "-f", str(config), "-E", str(log))


def _metadata(made: Network, i: int, attributes: Mapping[str, str]) -> None:
    folder = made.folder / f"metadata-{i}"
    folder.mkdir()
    for name, text in attributes.items():
        (folder / name).write_text(text)
    server = made.folder / "metadata.py"
    server.write_text(
        "import http.server, pathlib, sys\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        path = pathlib.Path(sys.argv[1]) / self.path.rpartition('/')[2]\n"
        "        data = path.read_bytes() if path.is_file() else b'not found'\n"
        "        self.send_response(200 if path.is_file() else 404)\n"
        "        self.send_header('Content-Length', str(len(data)))\n"
        "        self.end_headers()\n"
        "        self.wfile.write(data)\n"
        "http.server.ThreadingHTTPServer(('169.254.169.254', 80), Handler).serve_forever()\n"
    )
    name = f"{made.prefix}{i}"
    _run("ip", "-n", name, "addr", "add", "169.254.169.254/32", "dev", "lo")
    words = ["ip", "netns", "exec", name, sys.executable, str(server), str(folder)]
    subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
