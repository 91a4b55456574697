"""The processes of one attempt over several hosts, through the agent on each: started, seen and stopped together."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.io.files import read_json, write_atomic
from lmx.launch.host import Host, Unreachable
from lmx.launch.results import bring
from lmx.launch.target import (
    Attempt,
    Plan,
    Seen,
    Step,
    Task,
    Unreached,
    command_of,
    each,
    environment_of,
    read,
    write,
)

CALL_TIMEOUT = 60.0
POLL_TIMEOUT = 20.0
LEFT_GRACE = 5.0
"""Seconds for processes of an earlier attempt, whose peers are gone."""


class Layout(NamedTuple):
    """Where the processes of a run are.

    per_host     processes on each host
    workdir      working directory on the hosts
    code         folder on the hosts that is put on PYTHONPATH; None: lmx is installed there
    coordinator  host:port of process 0; None: the processes find each other by themselves
    environment  variables beside those of the plan
    local        the hosts are this machine, logs are written where they are read
    """

    hosts: tuple[Host, ...]
    per_host: int
    workdir: str
    coordinator: str | None
    environment: Mapping[str, str]
    code: str | None = None
    local: bool = False
    lost_after: float = 30.0


def request_of(plan: Plan, layout: Layout, host: int, number: int, *, resume: bool) -> dict[str, Any]:
    """What the agent of a host is asked to start."""
    count = len(layout.hosts) * layout.per_host
    folder = _folder(plan, layout, host, number)
    python = layout.hosts[host].python
    tasks = [
        {
            "index": i,
            "argv": list(command_of(python, "{folder}/config.yaml", plan.run_dir, resume=resume)),
            "environment": {
                **layout.environment,
                **plan.environment,
                **environment_of(i, count, layout.coordinator),
            },
        }
        for i in range(host * layout.per_host, (host + 1) * layout.per_host)
    ]
    return {
        "folder": folder,
        "cwd": layout.workdir,
        "tasks": tasks,
        "run_dir": plan.run_dir if host == 0 else None,
        "reset": number if number and not resume else None,
        "files": {
            "config.yaml": plan.config.read_text(encoding="utf-8") if plan.config.exists() else "(as above)"
        },
        "path": layout.code,
    }


def _folder(plan: Plan, layout: Layout, host: int, number: int) -> str:
    if layout.local:
        return str(plan.attempt_folder(number).absolute())
    return f"{layout.workdir}/launches/{plan.run}/{number}/host-{host}"


def steps(plan: Plan, layout: Layout) -> list[Step]:
    """The calls that start the first attempt."""
    return [
        host.step("start", **request_of(plan, layout, i, 0, resume=False))
        for i, host in enumerate(layout.hosts)
    ]


def on_all(hosts: Sequence[Host], call: Callable[[int], Any]) -> list[Any]:
    """`call(i)` on every host at once; one RequestError with everything that went wrong anywhere.

    Unreached where nothing else is wrong than that hosts do not answer."""

    def guarded(i: int) -> tuple[Any, Exception | None]:
        try:
            return call(i), None
        except (Unreachable, RequestError) as error:
            return None, error

    found = each(guarded, len(hosts))
    wrong = [error for _, error in found if error is not None]
    if wrong:
        away = all(isinstance(error, Unreachable) for error in wrong)
        raise (Unreached if away else RequestError)("\n".join(map(str, wrong)))
    return [answer for answer, _ in found]


def start(plan: Plan, layout: Layout, number: int, *, resume: bool) -> Attempt:
    """Starts every process, on all hosts at once; where one host refuses, those that were started are stopped.

    What is left alive of earlier attempts is ended before: a host may have been lost with its processes running. So
    hosts that do not answer are found out before anything is started (Unreached).
    """
    places = places_of([a for a in read(plan) if a.number < number])

    def clear(i: int) -> None:
        folders = places.get(layout.hosts[i])
        if folders:
            layout.hosts[i].call("sweep", timeout=CALL_TIMEOUT, folders=folders, grace=LEFT_GRACE)

    on_all(layout.hosts, clear)
    if number and not resume:  # one may have been written after the last answer
        resume = on_all(layout.hosts[:1], lambda _: _checkpoint(plan, layout))[0] is not None
    handle = {
        "hosts": [host._asdict() for host in layout.hosts],
        "per_host": layout.per_host,
        "folders": [_folder(plan, layout, i, number) for i in range(len(layout.hosts))],
        "workdir": layout.workdir,
        "run_dir": plan.run_dir,
        "local": layout.local,
        "lost_after": layout.lost_after,
        "began": time.time(),
    }
    attempt = Attempt(number, handle)

    def begin(i: int) -> Any:
        request = request_of(plan, layout, i, number, resume=resume)
        return layout.hosts[i].call("start", timeout=CALL_TIMEOUT, **request)

    write(plan, attempt)  # before the start: whoever comes after this process knows where to look
    try:
        on_all(layout.hosts, begin)
    except RequestError:
        stop(plan, attempt, grace=0)
        raise
    return attempt


def _checkpoint(plan: Plan, layout: Layout) -> int | None:
    where = {"folder": layout.workdir, "tasks": [], "cwd": layout.workdir, "run_dir": plan.run_dir}
    return layout.hosts[0].call("poll", timeout=POLL_TIMEOUT, **where)["checkpoint"]


def places_of(attempts: Sequence[Attempt]) -> dict[Host, list[str]]:
    """The folders of these attempts on each host."""
    places: dict[Host, list[str]] = {}
    for attempt in attempts:
        for host, folder in zip(_hosts(attempt), attempt.handle["folders"], strict=True):
            places.setdefault(host, []).append(folder)
    return places


def _hosts(attempt: Attempt) -> list[Host]:
    return [Host(h["name"], tuple(h["way"]), h["python"]) for h in attempt.handle["hosts"]]


def _tasks(attempt: Attempt, host: int) -> range:
    count = attempt.handle["per_host"]
    return range(host * count, (host + 1) * count)


def poll(plan: Plan, attempt: Attempt, *, logs: bool) -> Seen:
    """Asks every host at once. One that has not answered for `lost_after` seconds counts as lost."""
    hosts, folder = _hosts(attempt), plan.attempt_folder(attempt.number)
    folder.mkdir(parents=True, exist_ok=True)
    collect = logs and not attempt.handle["local"]
    patience = min(POLL_TIMEOUT, max(5.0, attempt.handle["lost_after"] / 3))
    before = read_json(folder / "seen.json") or {}

    def ask(i: int) -> dict[str, Any]:
        # A host that has ended is not asked again: it may be gone by now.
        known = before.get(str(i), {})
        if known.get("complete"):
            return known
        offsets = {
            n: _size(folder / f"task-{n}") for t in _tasks(attempt, i) for n in (f"{t}.log", f"{t}.out")
        }
        arguments: dict[str, Any] = {"offsets": offsets} if collect else {}
        if i == 0:
            arguments |= {"cwd": attempt.handle["workdir"], "run_dir": attempt.handle["run_dir"]}
        try:
            answer = hosts[i].call(
                "poll",
                timeout=patience,
                folder=attempt.handle["folders"][i],
                tasks=list(_tasks(attempt, i)),
                **arguments,
            )
        except (Unreachable, RequestError) as error:
            return {**known, "silent": str(error)}
        texts = answer.pop("texts")
        for name, text in texts.items():
            _append(folder / f"task-{name}", base64.b64decode(text))
        ended = all(task["state"] in ("ended", "lost") for task in answer["tasks"].values())
        complete = ended and (attempt.handle["local"] or (collect and not any(texts.values())))
        return {**answer, "heard": time.time(), "complete": complete}

    found = each(ask, len(hosts))
    if logs:  # others look while the driver starts processes: what they see is no last word
        write_atomic(folder / "seen.json", json.dumps({str(i): f for i, f in enumerate(found)}))
    tasks = [task for i, host in enumerate(hosts) for task in _seen(attempt, i, host, found[i])]
    return Seen(tuple(tasks), found[0].get("step"), found[0].get("checkpoint"), loss=found[0].get("loss"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(path: Path, data: bytes) -> None:
    if data:
        with open(path, "ab") as stream:
            stream.write(data)


def _seen(attempt: Attempt, index: int, host: Host, found: dict[str, Any]) -> list[Task]:
    heard = found.get("heard", attempt.handle["began"])
    silent = time.time() - heard if "silent" in found else 0.0
    tasks = []
    for i in _tasks(attempt, index):
        known = found.get("tasks", {}).get(str(i), {"state": "waiting"})
        task = Task(
            i,
            host.name,
            known["state"],
            known.get("exit_code", 1 if known["state"] == "lost" else None),
            known.get("ended"),
            known.get("message", ""),
        )
        if task.state in ("waiting", "running") and silent:
            message = f"{host.name} has not answered for {silent:.0f} s: {found['silent']}"
            task = task._replace(message=message)
            if silent > attempt.handle["lost_after"]:
                task = task._replace(state="lost", exit_code=1, ended=heard)
        elif task.state == "waiting" and not found.get("tasks"):
            task = task._replace(message="not asked yet")
        tasks.append(task)
    return tasks


def stop(plan: Plan, attempt: Attempt, *, grace: float) -> list[str]:
    """Stops the attempt's processes on every host at once; what went wrong on hosts that do not answer."""
    hosts = _hosts(attempt)
    known = read_json(plan.attempt_folder(attempt.number) / "seen.json") or {}

    def end(i: int) -> None:
        # One that is silent already is asked once more, and not waited for: the others are.
        timeout = POLL_TIMEOUT if "silent" in known.get(str(i), {}) else grace + 30
        tasks = list(_tasks(attempt, i))
        hosts[i].call("stop", timeout=timeout, folder=attempt.handle["folders"][i], tasks=tasks, grace=grace)

    return _told(end, len(hosts))


def sweep(attempts: Sequence[Attempt], *, grace: float) -> list[str]:
    """Ends whatever lives of these attempts on every host at once; what went wrong on hosts that do not answer."""
    places = list(places_of(attempts).items())

    def end(i: int) -> None:
        host, folders = places[i]
        host.call("sweep", timeout=grace + 30, folders=folders, grace=grace)

    return _told(end, len(places))


def _told(end: Callable[[int], None], count: int) -> list[str]:
    def guarded(i: int) -> str | None:
        try:
            end(i)
        except (Unreachable, RequestError) as error:
            return f"{error}; what runs there could not be ended"
        return None

    return [message for message in each(guarded, count) if message is not None]


def where(attempt: Attempt) -> str | None:
    """Where the run directory is; None: on this machine."""
    facts = attempt.handle
    if facts["local"]:
        return None
    path = facts["run_dir"]
    return f"{facts['hosts'][0]['name']}: {path if path.startswith(('/', '~')) else facts['workdir'] + '/' + path}"


def collect(plan: Plan, attempt: Attempt) -> list[str]:
    """Brings the results from host 0; what went wrong."""
    if attempt.handle["local"]:
        return []
    place = {"cwd": attempt.handle["workdir"], "run_dir": attempt.handle["run_dir"]}
    try:
        bring(_hosts(attempt)[0], **place, to=plan.folder.parent)
    except (Unreachable, RequestError, OSError) as error:
        return [f"the results could not be brought here: {error}"]
    return []
