"""Target `ssh`: hosts that are reached by an OpenSSH client, all asked at the same time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lmx.config.errors import RequestError
from lmx.config.text import counted
from lmx.io.files import read_json
from lmx.launch import gang, versions
from lmx.launch.config import Ssh
from lmx.launch.host import Host, Unreachable, missing_program
from lmx.launch.target import Plan, Step, Unreached, each
from lmx.launch.versions import PACKAGES

LEAST_PYTHON = (3, 11)
PROBE_TIMEOUT = 30.0
SETUP_TIMEOUT = 3600.0


class Place(Protocol):
    """What a target with hosts knows of them: which Python and code runs use, where they work, how they are set up."""

    @property
    def python(self) -> str:
        """The Python that runs use."""
        ...

    @property
    def code(self) -> str:
        """`snapshot`, `installed`, or a folder on the hosts."""
        ...

    @property
    def workdir(self) -> str:
        """Working directory on the hosts."""
        ...

    @property
    def devices(self) -> int | None:
        """Virtual CPU devices of each process; None: real ones."""
        ...

    @property
    def setup(self) -> str | None:
        """Shell command that each host runs once."""
        ...


def hosts_of(target: Ssh) -> tuple[Host, ...]:
    """The hosts of the list or the file, in order. RequestError where the file is not there, or a host comes twice."""
    return tuple(Host(name, way(target, name), target.python) for name in names_of(target))


def names_of(target: Ssh) -> list[str]:
    """`user@host:port` of each host."""
    names = list(target.hosts or ())
    if target.hosts_file is not None:
        path = Path(target.hosts_file).expanduser()
        if not path.is_file():
            raise RequestError(
                f"target.hosts_file={path}: there is no such file; a line a host: [user@]host[:port]"
            )
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
        names += [line for line in lines if line]
    if not names:
        raise RequestError("there is no host; set target.hosts=[host1,host2] or target.hosts_file=FILE")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RequestError(f"target.hosts: {', '.join(twice)} stands there twice; each host runs one agent")
    return names


def way(target: Ssh, name: str) -> tuple[str, ...]:
    """The words before a shell command on a host. One connection is kept open and used again."""
    address, colon, port = name.rpartition(":")
    if not (colon and port.isdecimal()):
        address, port = name, ""
    Path("~/.ssh").expanduser().mkdir(mode=0o700, exist_ok=True)  # ssh ends where the socket cannot be made
    words = connection_options(target.connect_timeout)
    return (target.ssh, "-T", *target.options, *words, *(("-p", port) if port else ()), address)


def connection_options(connect_timeout: float) -> list[str]:
    """Options of ssh: no questions, a silent host is given up, one connection is kept open and used again."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": f"{connect_timeout:.0f}",
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "ControlMaster": "auto",
        "ControlPersist": "60",
        "ControlPath": "~/.ssh/lmx-%C",
    }
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def coordinator_of(target: Ssh, found: Mapping[str, Any] | None = None) -> str:
    """What the other hosts reach host 0 by. `found`: what host 0 says of itself.

    Its own address that ssh has reached it by, rather than its name: where /etc/hosts takes the name for 127.0.1.1, as
    Debian's does, or only ssh's configuration knows it, the processes would not find each other.
    """
    if target.coordinator is not None:
        return target.coordinator
    reached = (found or {}).get("address")
    if reached and not loopback(reached):
        return f"[{reached}]" if ":" in reached else reached
    address = names_of(target)[0].rpartition("@")[2]
    host, colon, port = address.rpartition(":")
    return host if colon and port.isdecimal() else address


def loopback(address: str) -> bool:
    """Whether an address leads a host to itself alone."""
    return address == "::1" or address.startswith("127.")


def code_folder(target: Place, plan: Plan) -> str | None:
    """Where the code is on the hosts; None where lmx is installed there."""
    if target.code == "snapshot":
        return f"{target.workdir}/code/{plan.code}"
    return None if target.code == "installed" else target.code


def layout(target: Ssh, plan: Plan, *, port: int | None = None) -> gang.Layout:
    """Hosts and processes. `port` 0: left open, as is the address; None: host 0 is asked for one that is free."""
    hosts = hosts_of(target)
    found: dict[str, Any] = {}
    if port is None:
        try:
            found = hosts[0].call("probe", timeout=PROBE_TIMEOUT, python=target.python)
        except Unreachable as error:
            raise Unreached(f"{error}; see ssh {hosts[0].name}") from None
    environment = dict(target.env)
    if target.devices is not None:
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(target.devices)}
    return gang.Layout(
        hosts=hosts,
        per_host=target.processes,
        workdir=target.workdir,
        coordinator=f"{coordinator_of(target, found)}:{found.get('port', 'PORT')}",
        environment=environment,
        code=code_folder(target, plan),
        lost_after=target.lost_after,
    )


def check_request(target: Ssh) -> None:
    """RequestError where there is no host, no ssh, or no git for a snapshot."""
    names_of(target)
    for program in (target.ssh, *(("git",) if target.code == "snapshot" else ())):
        if shutil.which(program) is None:
            raise RequestError(missing_program(program))


def check(target: Ssh, plan: Plan) -> None:
    """RequestError with all that is wrong on any host: see `check_hosts`."""
    check_hosts(target, plan, hosts_of(target), partial(coordinator_of, target))


def check_hosts(
    target: Place,
    plan: Plan,
    hosts: Sequence[Host],
    coordinator: Callable[[Mapping[str, Any]], str] | None = None,
) -> None:
    """RequestError with all that is wrong on any host: unreachable, another Python, packages missing or different,
    from the other hosts or from what was there when the run began.

    coordinator  of what host 0 says of itself, what the others look for it by; None: they need not
    """
    name = coordinator({}) if coordinator is not None and len(hosts) > 1 else None
    code = target.code if target.code not in ("snapshot", "installed") else None

    def ask(i: int) -> dict[str, Any]:
        try:
            return hosts[i].call(
                "probe",
                timeout=PROBE_TIMEOUT,
                python=target.python,
                code=code,
                packages=list(PACKAGES),
                workdir=target.workdir,
                look_up=name,
            )
        except (Unreachable, RequestError) as error:
            cure = f"; try: ssh {hosts[i].name}" if isinstance(error, Unreachable) else ""
            return {"wrong": f"{error}{cure}"}

    found = each(ask, len(hosts))
    wrong = [answer["wrong"] for answer in found if "wrong" in answer]
    sound = [(host.name, answer) for host, answer in zip(hosts, found, strict=True) if "wrong" not in answer]
    record = read_json(plan.folder / "plan.json") or {}
    sends_lmx = bool(record.get("code", {}).get("has_lmx"))
    if sends_lmx:  # what is there is not what runs
        sound = [(name, {**answer, "lmx_files": None}) for name, answer in sound]
    wrong += differences(target, sound, sends_lmx=sends_lmx)
    at_first = sound[0][1] if sound and sound[0][0] == hosts[0].name else None
    if coordinator is not None and at_first is not None and coordinator(at_first) == name:
        wrong += [
            f"{host}: it knows no {name}, by which it would look for {hosts[0].name}; set target.coordinator to an "
            "address of that host which the others reach"
            for host, answer in sound
            if answer["leads"] is None
        ]
    wrong += versions.changed(plan.folder, sound, lmx=target.code == "installed")
    if wrong:
        problems = counted(len(wrong), "problem")
        raise RequestError("\n    ".join([f"nothing was started: {problems} with the hosts", *wrong]))
    versions.keep(plan.folder, sound)


def differences(target: Place, found: list[tuple[str, dict[str, Any]]], *, sends_lmx: bool) -> list[str]:
    """What does not fit: a Python too old or other than host 0's, packages missing or other than host 0's."""
    wrong: list[str] = []
    if not found:
        return wrong
    first_name, first = found[0]
    for name, answer in found:
        version = tuple(map(int, answer["python"].split(".")[:2]))
        if version < LEAST_PYTHON:
            wrong.append(f"{name}: {target.python} is Python {answer['python']}; lmx needs 3.11 or newer")
            continue
        if version != tuple(map(int, first["python"].split(".")[:2])):
            wrong.append(
                f"{name}: Python {answer['python']}, but {first_name} has {first['python']}; set target.python to the "
                "same version on all"
            )
        packages, wanted = answer["packages"], first["packages"]
        needed = [p for p in PACKAGES if p != "lmx"]
        missing = [p for p in needed if packages[p] is None]
        if missing:
            wrong.append(
                f"{name}: {target.python} has no {', '.join(missing)}; install them there: pip install -e . in a "
                "checkout of lmx"
            )
            continue
        wrong += [
            f"{name}: {p} {packages[p]}, but {first_name} has {wanted[p]}; install the same version on all"
            for p in needed
            if wanted[p] is not None and packages[p] != wanted[p]
        ]
        own = _lmx(target, name, answer, sends_lmx)
        files, here = answer["lmx_files"], first["lmx_files"]
        if not own and files != here and packages["lmx"] == wanted["lmx"]:
            own = [f"{name}: its lmx has other files than that of {first_name}; install the same on all"]
        wrong += own
        if answer["unwritable"] is not None:
            cure = "set target.workdir to a folder that can be written there"
            wrong.append(f"{name}: {target.workdir}: {answer['unwritable']}; {cure}")
        wrong += _own_address(target, name, answer, several=len(found) > 1)
    return wrong


def _own_address(target: Place, name: str, answer: dict[str, Any], *, several: bool) -> list[str]:
    """What is wrong with the address that a host takes its name for: CPU devices tell it to the other hosts."""
    own, reached = answer.get("own") or "", answer.get("address") or "::1"
    if target.devices is None or not several or not loopback(own) or loopback(reached):
        return []
    called = answer["name"]
    return [
        f"{name}: its own name {called} leads to {own} there, and on CPU devices the other hosts are told to find it "
        f"by that; in its /etc/hosts: {reached} {called}"
    ]


def _lmx(target: Place, name: str, answer: dict[str, Any], sends_lmx: bool) -> list[str]:
    """What is wrong with the lmx that a host would run."""
    from importlib import metadata

    if sends_lmx:
        return []
    if target.code not in ("snapshot", "installed"):
        where = f"{name}: target.code={target.code}"
        if not answer["folder"]:
            return [
                f"{where}: there is no such folder; name one that is there, or target.code=snapshot sends this"
            ]
        if answer["code"] or answer["packages"]["lmx"] is not None:
            return []
        return [f"{where}: there is no lmx in that folder, and none installed"]
    here, there = metadata.version("lmx"), answer["packages"]["lmx"]
    if there is None:
        return [
            f"{name}: {target.python} has no lmx; install lmx=={here} there, or start in lmx's own git checkout"
        ]
    return [] if there == here else [f"{name}: lmx {there}, but {here} here; install lmx=={here} there"]


def prepare_steps(target: Place, plan: Plan, hosts: Sequence[Host]) -> list[Step]:
    """What brings code and setup to every host."""
    steps: list[Step] = []
    for i, host in enumerate(hosts):
        if target.code == "snapshot":
            step = host.step("unpack", folder=code_folder(target, plan))
            steps.append(step._replace(input=f"{step.input}\nthen {plan.folder / 'code.tar'}"))
        if target.setup is not None:
            steps.append(host.step("setup", **setup_request(target, i)))
    return steps


def setup_request(target: Place, host: int) -> dict[str, Any]:
    """What the agent is asked to run once on each host; another command is another mark."""
    import hashlib

    assert target.setup is not None
    # By host: a file system may be shared, installed packages are not.
    mark = f"setup-{hashlib.sha256(target.setup.encode()).hexdigest()[:12]}-{host}"
    return {"command": target.setup, "folder": f"{target.workdir}/setup", "mark": mark, "cwd": target.workdir}


def prepare(target: Place, plan: Plan, hosts: Sequence[Host]) -> None:
    """Sends the code and runs the setup on all hosts at once."""
    data = (plan.folder / "code.tar").read_bytes() if target.code == "snapshot" else b""

    def one(i: int) -> None:
        if data:
            hosts[i].call("unpack", timeout=SETUP_TIMEOUT, data=data, folder=code_folder(target, plan))
        if target.setup is not None:
            hosts[i].call("setup", timeout=SETUP_TIMEOUT, **setup_request(target, i))

    gang.on_all(hosts, one)
