"""What a JobSet, its pods and their logs, as the cluster tells of them, say of an attempt. Asks nothing itself."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from lmx.launch import jobset
from lmx.launch.target import Attempt, Task

SUBMISSION = 60.0
"""After so many seconds a JobSet that no one has seen was never sent."""

TERMINATED = -15


class State(NamedTuple):
    """A JobSet. `over`: Completed or Failed, None while it is neither; `ended`: when, seconds since the epoch."""

    exists: bool
    over: str | None = None
    message: str = ""
    ended: float | None = None


def state_of(found: Sequence[Mapping[str, Any]]) -> State:
    """The JobSet among what the cluster has."""
    item = next((item for item in found if item["kind"] == "JobSet"), None)
    if item is None:
        return State(False)
    status = item.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions", ()) if c["status"] == "True"}
    for kind in ("Completed", "Failed"):
        if kind in conditions:
            condition = conditions[kind]
            return State(True, kind, condition.get("message", ""), seconds(condition["lastTransitionTime"]))
    if "Suspended" in conditions or item["spec"].get("suspend"):
        queue = item["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        return State(True, message=f"waits in the queue {queue}" if queue else "is suspended")
    restarts = status.get("restarts", 0)
    return State(True, message=f"started again, time {restarts}" if restarts else "waits for its pods")


def seconds(moment: str) -> float:
    """Seconds since the epoch of a time as Kubernetes writes it."""
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def looked(
    attempt: Attempt,
    state: State,
    pods: Sequence[Mapping[str, Any]],
    known: Mapping[str, Any],
    *,
    stopping: bool,
) -> dict[str, Any]:
    """What is known of an attempt after a look, given what was `known` before it. JSON."""
    if not state.exists and known.get("over"):
        return {**known, "time": time.time()}  # it had ended, and was deleted since
    hosts, count = attempt.handle["hosts"], attempt.handle["hosts"] * attempt.handle["slices"]
    existed = state.exists or bool(pods) or known.get("existed", False)
    newest = max((_restart(pod) for pod in pods), default=known.get("restart", 0))
    current = {index_of(pod, hosts): pod for pod in pods if _restart(pod) == newest}
    late = time.time() - attempt.handle["began"] > SUBMISSION
    if state.over is not None:
        complete = True
    elif state.exists:
        complete = False
    else:  # deleted: the pods end; or it was never sent
        complete = not pods and (existed or late or stopping)
    before = {t["index"]: t for t in known.get("tasks", ()) if known.get("restart") == newest}
    tasks = [
        _task(i, current.get(i), before.get(i), state, attempt, complete=complete, existed=existed)
        for i in range(count)
    ]
    told = _told(current.get(0)) if 0 in current else None
    taken = state.over == "Failed" and any(_disrupted(pod) for pod in current.values())
    return {
        **{key: known[key] for key in ("logs", "step", "loss") if key in known},
        "time": time.time(),
        "tasks": [task._asdict() for task in tasks],
        "restart": newest,
        "existed": existed,
        "over": state.over,
        "checkpoint": told if told is not None else known.get("checkpoint"),
        "preempted": taken and not stopping,
    }


def _task(
    index: int,
    pod: Mapping[str, Any] | None,
    before: Mapping[str, Any] | None,
    state: State,
    attempt: Attempt,
    *,
    complete: bool,
    existed: bool,
) -> Task:
    name = attempt.handle["name"]
    end = _end(pod) if pod is not None else None
    if pod is None and before is not None and before["exit_code"] is not None:
        end = (before["exit_code"], before["ended"])  # its pod is gone by now
    host = pod["metadata"]["name"] if pod is not None else (before or {}).get("host", name)
    if complete:
        if state.over == "Completed":
            return Task(index, host, "ended", 0, state.ended)
        if end is not None:
            return Task(index, host, "ended", end[0], end[1], state.message if end[0] else "")
        words = state.message or (
            f"JobSet {name} is no longer there" if existed else f"JobSet {name} was not sent"
        )
        if not existed:
            return Task(index, host, "lost", 1, message=words)
        # After whatever ended the JobSet: Kubernetes tells times in whole seconds.
        return Task(index, host, "ended", TERMINATED, (state.ended or time.time()) + 1, words)
    if pod is not None and end is None and pod.get("status", {}).get("phase") == "Running":
        return Task(index, host, "running")
    if not state.exists and end is not None:
        return Task(index, host, "ended", end[0], end[1])
    # Of a JobSet that goes on, a pod that has ended is going to be started again, or waits for the others.
    words = _waits(pod) if pod is not None and end is None else ""
    return Task(index, f"JobSet {name}", "waiting", message=words or state.message)


def _label(pod: Mapping[str, Any], name: str) -> str:
    metadata = pod["metadata"]
    return metadata.get("labels", {}).get(name) or metadata.get("annotations", {}).get(name) or "0"


def _restart(pod: Mapping[str, Any]) -> int:
    return int(_label(pod, jobset.RESTART))


def index_of(pod: Mapping[str, Any], hosts: int) -> int:
    """The process that a pod is: slices after one another, the hosts of a slice in order."""
    return int(_label(pod, jobset.JOB_INDEX)) * hosts + int(
        _label(pod, "batch.kubernetes.io/job-completion-index")
    )


def _container(pod: Mapping[str, Any]) -> dict[str, Any]:
    """State of the container, `{"terminated": {...}}` and the like."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return next((s.get("state", {}) for s in statuses if s["name"] == "lmx"), {})


def _end(pod: Mapping[str, Any]) -> tuple[int, float | None] | None:
    """Exit code and time of a pod that has ended."""
    ended = _container(pod).get("terminated")
    if ended is not None:
        code = ended["exitCode"]
        moment = ended.get("finishedAt")
        return (code if code <= 128 else 128 - code), seconds(moment) if moment else None
    phase = pod.get("status", {}).get("phase")
    return {"Succeeded": (0, None), "Failed": (1, None)}.get(phase or "")


def _told(pod: Mapping[str, Any] | None) -> int | None:
    """The checkpoint that a pod told of when it ended."""
    said = (_container(pod).get("terminated") or {}).get("message", "").strip() if pod else ""
    return int(said) if said.isdecimal() else None


def _disrupted(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(c["type"] == "DisruptionTarget" and c["status"] == "True" for c in conditions)


def _waits(pod: Mapping[str, Any]) -> str:
    """Why a pod does not run yet."""
    waiting = _container(pod).get("waiting", {})
    if waiting:
        return ": ".join(filter(None, [waiting.get("reason"), waiting.get("message")]))
    conditions = pod.get("status", {}).get("conditions", ())
    held = [c for c in conditions if c["type"] == "PodScheduled" and c["status"] == "False"]
    return held[0].get("message", "not scheduled yet") if held else "starts"


def sorted_logs(text: str, last: dict[str, str]) -> dict[str, list[str]]:
    """pod -> lines later than `last[pod]`, which is set to the time of its newest one."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.match(r"\[pod/([^/]+)/[^\]]*\] (\S+) ?(.*)", line)
        if match is None:
            continue
        pod, moment = match[1], _comparable(match[2])
        if moment > last.get(pod, ""):
            found.setdefault(pod, []).append(match[3])
            last[pod] = moment
    return found


def _comparable(moment: str) -> str:
    """A time with nine digits after the point: 10:00:00.5Z becomes 10:00:00.500000000."""
    whole, _, part = moment.removesuffix("Z").partition(".")
    return f"{whole}.{part:0<9}"


def last_row(path: Path) -> dict[str, int | float | None]:
    """Step and loss of the last step that a log tells of."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, path.stat().st_size - 65536))
            found = re.findall(rb"^step (\d+)/\S*(?:.*?\bloss (\S+))?", stream.read(), re.MULTILINE)
    except OSError:
        found = []
    step, loss = found[-1] if found else (b"", b"")
    return {"step": int(step) if step else None, "loss": float(loss) if loss else None}
