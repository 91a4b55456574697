"""Figures of `lmx launch`, taken on one machine with hosts in network namespaces (as root):

python -m tests.launch.figures overhead     # from the command to the first process of lmx on 4 hosts
python -m tests.launch.figures hosts        # 64 hosts beside 1
python -m tests.launch.figures death        # SIGKILL to all of one host of 4, until it is named and acted on
python -m tests.launch.figures link         # the cable of one host of 4 is pulled
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lmx.config.overrides import write_value
from lmx.launch import agent
from tests.launch import namespaces
from tests.launch.programs import until
from tests.support import ROOT


def python_of(folder: Path) -> str:
    """A Python whose `-m lmx` notes when it was started, and waits until it is ended."""
    path = folder / "python"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\n'
        f'date +%s.%N > "{folder}/began-${{JAX_PROCESS_ID:-0}}"\nexec sleep 600\n'
    )
    path.chmod(0o755)
    return str(path)


def command(net: namespaces.Network, folder: Path, hosts: int, *more: str) -> list[str]:
    """The launch of a run on the first hosts."""
    facts = {
        "hosts": list(net.addresses[:hosts]),
        "options": net.options,
        "python": python_of(folder),
        "workdir": str(folder / "work"),
    }
    target = [f"target.{key}={write_value(value)}" for key, value in facts.items()]
    words = [f"hydra.run.dir={folder / 'run'}", "target=ssh", "mesh=dp", *target, *more]
    return [sys.executable, "-m", "lmx", "launch", *words]


def began(folder: Path, hosts: int, driver: subprocess.Popen[str]) -> list[float]:
    """When each process started."""
    paths = [folder / f"began-{i}" for i in range(hosts)]
    ready = lambda: all(p.exists() and p.read_text().endswith("\n") for p in paths)
    until(lambda: ready() or driver.poll() is not None, 240)
    if driver.poll() is not None:
        raise SystemExit(driver.stderr.read() if driver.stderr else "it ended")
    return [float(path.read_text()) for path in paths]


def starts(net: namespaces.Network, folder: Path, hosts: int, code: str) -> None:
    """Prints the time from the command to the first and to the last process."""
    folder.mkdir()
    moment = time.time()
    driver = subprocess.Popen(
        command(net, folder, hosts, f"target.code={code}"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    found = [time_ - moment for time_ in began(folder, hosts, driver)]
    sort = "code sent" if code == "snapshot" else "code there"
    print(f"{hosts} hosts, {sort}: first after {min(found):.2f} s, all after {max(found):.2f} s", flush=True)
    end(driver)


def end(driver: subprocess.Popen[str]) -> None:
    """Stops a run."""
    driver.terminate()
    driver.communicate()


def told(net: namespaces.Network, folder: Path, harm: str) -> None:
    """Prints when a host that is harmed is named, and when the processes of the others have ended."""
    log = folder / "said"
    words = command(net, folder, 4, "launch.max_failures=0", "launch.host_wait=null")
    with open(log, "w") as stream:
        driver = subprocess.Popen(words, cwd=ROOT, stderr=stream, text=True)
    began(folder, 4, driver)
    time.sleep(10)
    shown, moment = log.stat().st_size, time.time()
    if harm == "death":
        net.kill(2)
    else:
        net.link(2, "down")
    paths = [folder / f"work/launches/run/0/host-{i}/task-{i}.pid" for i in (0, 1, 3)]
    others = running = True
    while running:
        running = driver.poll() is None
        after = time.time() - moment
        new = log.read_text()[shown:]
        shown += len(new)
        if new:
            print(f"{after:6.2f} s  {new.rstrip()}", flush=True)
        if others and not any(agent.alive(agent.read(str(path))) for path in paths):
            print(f"{after:6.2f} s  (the processes of the other hosts have ended)", flush=True)
            others = False
        time.sleep(0.05)
    print(f"{time.time() - moment:6.2f} s  (the command has ended)")
    net.link(2, "up")


def main(what: str) -> None:
    """Takes one of the figures."""
    folder = Path(tempfile.mkdtemp(prefix="lmx-figures-"))
    with namespaces.network(64 if what == "hosts" else 4, folder / "net") as net:
        if what == "overhead":
            for i in range(6):
                starts(net, folder / str(i), 4, ("snapshot", str(ROOT))[i % 2])
        elif what == "hosts":
            for i, hosts in enumerate((1, 64)):
                starts(net, folder / str(i), hosts, str(ROOT))
        else:
            told(net, folder, what)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the hosts are taken down then too
    main(sys.argv[1])
