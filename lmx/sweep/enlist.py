"""Launch targets as the pods of a sweep: checked, with their code and storage settled, before the first job starts.

SWEEP/.pods/NAME-HASH/    a pod: its target frozen as `lmx.launch` freezes one, the code's snapshot, its setup's mark
    pool.json             what else its jobs need to know
    prepared              code and setup are on its hosts
    stop                  given back: who waits for it ends
    unfenced/             attempts that were lost on it, and may still run there
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.io.files import read_json, to_json, write_atomic
from lmx.launch import Gke, TpuVm, gang
from lmx.launch.config import Processes
from lmx.launch.host import Unreachable
from lmx.launch.plan import Launch, Policy, freeze, load
from lmx.launch.target import Plan, Target, each
from lmx.launch.versions import differing, known
from lmx.sweep.carry import ask

HERE = "here"
SHARED = "shared"
_STATE = ("pod.json",)
"""What a target keeps in a run's folder and a later run on the same pod needs."""


class Enlisted(NamedTuple):
    """A pod on disk.

    runs      folder of run directories that all pods reach; None: where each target has them
    storage   the same for pods that go on from each other's checkpoints
    patience  seconds that a pod, or a run's directory, is waited for
    sweep     what the names of its runs on hosts begin with
    """

    folder: Path
    name: str
    launch: Launch
    runs: str | None
    storage: str
    patience: float
    sweep: str

    def run_dir(self, run: Path, job: str) -> str:
        """A job's run directory as the hosts see it; `run` itself where they see this file system."""
        name = f"{self.sweep}-{job}"
        if self.runs is not None:
            return f"{self.runs.rstrip('/')}/{name}"
        return str(run) if sees_here(self.launch.target) else self.launch.target.run_dir(Path(name))

    def hosts(self, plan: Plan) -> gang.Layout | None:
        """Its hosts, where they can be asked."""
        target = self.launch.target
        return target.layout(plan) if isinstance(target, Processes) else None


def sees_here(target: Target) -> bool:
    """Whether runs of the target are in the folders of this machine."""
    path = Path("x").absolute()
    return target.run_dir(path) == str(path)


def tree_of(target: Target) -> dict[str, Any]:
    """The target as a plain tree."""
    cls = type(target)
    return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **target.model_dump()}


def folder_of(sweep: Path, name: str, target: Target) -> Path:
    """Where a pod of a sweep is kept; another target of the same name has another folder."""
    text = json.dumps(tree_of(target), sort_keys=True)
    return sweep / ".pods" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def enlisted(folder: Path) -> Enlisted:
    """The pod in a folder."""
    facts = read_json(folder / "pool.json") or {}
    return Enlisted(
        folder,
        facts["name"],
        load(folder),
        facts["runs"],
        facts["storage"],
        facts["patience"],
        facts["sweep"],
    )


def enlist(
    sweep: Path,
    targets: Mapping[str, Target],
    *,
    tree: Mapping[str, Any],
    policy: Policy,
    runs: str | None,
    storage: str,
    patience: float,
) -> list[str]:
    """Freezes, checks and proves all pods at once; what is worth knowing, in words. Doing it again is harmless.

    `tree`: the configuration of a job. RequestError with all that is wrong with any of them; no pod is left then.
    """
    folders = {name: folder_of(sweep, name, target) for name, target in targets.items()}
    new = [name for name, folder in folders.items() if not (folder / "plan.json").exists()]
    sweep.mkdir(parents=True, exist_ok=True)
    identity = sweep / ".pods" / "identity"
    identity.parent.mkdir(exist_ok=True)
    if not identity.exists():
        write_atomic(identity, f"{sweep.name}-{secrets.token_hex(3)}")
    facts = {"runs": runs, "patience": patience, "sweep": identity.read_text(encoding="utf-8")}
    wrong: list[str] = []
    for name in new:
        try:
            _freeze(folders[name], name, targets[name], tree, policy, facts)
        except RequestError as error:
            wrong.append(f"pod {name}: {error}")
    sound = [name for name in folders if (folders[name] / "plan.json").exists()]
    wrong += [words for words in each(lambda i: _check(folders[sound[i]]), len(sound)) if words]
    wrong += unlike([(name, folders[name]) for name in sound])
    said: list[str] = []
    if not wrong:
        found, said = _storages([enlisted(folders[name]) for name in folders], storage)
        for name, own in found.items():
            record = read_json(folders[name] / "pool.json") or {}
            write_atomic(folders[name] / "pool.json", to_json({**record, "storage": own}) + "\n")
        wrong = _apart(found) if storage == SHARED else []
    if wrong:
        for name in new:
            shutil.rmtree(folders[name], ignore_errors=True)
        raise RequestError("\n    ".join(["no job was started:", *wrong]))
    return said


def _freeze(
    folder: Path, name: str, target: Target, tree: Mapping[str, Any], policy: Policy, facts: dict[str, Any]
) -> None:
    _reachable(target, facts["runs"])
    if isinstance(target, TpuVm) and facts["runs"] is not None:
        target = target.model_copy(update={"runs": facts["runs"]})  # that is what its workers have to reach
    run = f"{facts['sweep']}-{name}"
    if isinstance(target, TpuVm) and target.name is None:
        target = target.model_copy(
            update={"name": f"lmx-{run}".lower().replace("_", "-").replace(".", "-")[:60]}
        )
    freeze(tree, folder=folder, run_dir=Path(run), target=tree_of(target), policy=policy, environment={})
    own = {"name": name, "storage": HERE, "made_first": isinstance(target, TpuVm)}
    write_atomic(folder / "pool.json", to_json({**own, **facts}) + "\n")


def _reachable(target: Target, runs: str | None) -> None:
    """RequestError where results could never be read here: of pods whose files no host can be asked for."""
    if isinstance(target, Processes) or (runs is None and sees_here(target)):
        return
    if runs is None:
        raise RequestError(
            "what runs on this target write is on a volume that nothing here reaches: mount it here at the same path "
            "and name a folder in it, pool.runs=PATH"
        )
    if not Path(runs).is_dir():
        raise RequestError(
            f"pool.runs={runs}: there is no such folder here, so results could not be read; mount it here at that path"
        )
    if isinstance(target, Gke) and not Path(runs).is_relative_to(target.mount):
        raise RequestError(
            f"pool.runs={runs} is not in the volume of the pods, which is mounted at target.mount={target.mount}: what "
            f"they write would go with them; name a folder in it, pool.runs={target.mount.rstrip('/')}/runs"
        )


def _check(folder: Path) -> str | None:
    pod = enlisted(folder)
    try:
        pod.launch.target.check(pod.launch.plan)
    except (RequestError, Unreachable) as error:
        return f"pod {pod.name}: {error}"
    return None


def unlike(pods: Sequence[tuple[str, Path]]) -> list[str]:
    """Pods whose hosts have other versions than those of the first: what they compute is not to be compared."""
    firsts = [(name, *next(iter(known(folder).items()))) for name, folder in pods if known(folder)]
    lines = []
    for name, host, own in firsts[1:]:
        first, other, theirs = firsts[0]
        words = [f"{what} {mine}, but {its}" for what, mine, its in differing(own, theirs) if what != "lmx"]
        if words:
            lines.append(
                f"pod {name}: {host} has {', '.join(words)} on {other} of pod {first}; install the same versions"
            )
    return lines


# ---- which pods reach the same run directories


class _Asked(NamedTuple):
    pod: int
    host: int
    workdir: str
    way: Any
    runs: str


def _storages(pods: Sequence[Enlisted], storage: str) -> tuple[dict[str, str], list[str]]:
    """For each pod what names its storage, proved by files that one host writes and the others look for."""
    asked: list[_Asked] = []
    found: dict[str, str] = {}
    said: list[str] = []
    for i, pod in enumerate(pods):
        if pod.runs is None and sees_here(pod.launch.target):
            found[pod.name] = HERE
            continue
        if isinstance(pod.launch.target, TpuVm) or not isinstance(pod.launch.target, Processes):
            found[pod.name] = SHARED if storage == SHARED else pod.name
            said.append(
                f"pod {pod.name}: whether it reaches the others' run directories is not proved beforehand"
            )
            continue
        layout = pod.launch.target.layout(pod.launch.plan)
        runs = str(Path(pod.run_dir(Path("x"), "x")).parent)
        asked += [_Asked(i, j, layout.workdir, host, runs) for j, host in enumerate(layout.hosts)]
    seen = _tokens(asked, pods)
    for k, one in enumerate(asked):
        first = min((other for other in range(len(asked)) if _token(asked[other]) in seen[k]), default=k)
        own = f"{pods[asked[first].pod].name}/{asked[first].host}"
        name = pods[one.pod].name
        if found.setdefault(name, own) != own:
            found[name] = f"{found[name]}, {own}"
    return found, said


def _token(one: _Asked) -> str:
    return f"pod-{one.pod}-{one.host}"


def _tokens(asked: Sequence[_Asked], pods: Sequence[Enlisted]) -> list[list[str]]:
    """For each host the tokens that it sees."""
    folders = [f"{one.runs}/.{pods[one.pod].sweep}" for one in asked]
    names = [_token(one) for one in asked]

    def all_at_once(do: str, more: Any) -> list[Any]:
        return each(lambda k: ask(asked[k].way, do, cwd=asked[k].workdir, **more(k)), len(asked))

    try:
        all_at_once("touch", lambda k: {"path": f"{folders[k]}/{names[k]}"})
        seen = all_at_once("which", lambda k: {"path": folders[k], "names": names})
        all_at_once("remove", lambda k: {"path": folders[k], "names": names})
    except Unreachable as error:
        raise RequestError(f"no job was started: {error}") from None
    return seen


def _apart(found: Mapping[str, str]) -> list[str]:
    """What is wrong where not all pods have one storage."""
    known = {own for own in found.values() if own != SHARED}
    if len(known) < 2 and not any("," in own for own in known):
        return []
    groups: dict[str, list[str]] = {}
    for name, own in found.items():
        groups.setdefault(own, []).append(name)
    words = "; ".join(
        f"{' '.join(names)}: {'this machine' if own == HERE else f'the disk of {own}'}"
        for own, names in groups.items()
    )
    return [
        f"the pods do not reach the same run directories ({words}), so a job whose pod is lost could not go on on "
        "another. Name a folder that all of them reach (pool.runs=/shared/runs, or a target's workdir there), or let "
        "such a job begin anew elsewhere: pool.storage=separate"
    ]


# ---- once a pod


@contextlib.contextmanager
def preparing(folder: Path, *, patience: float = math.inf) -> Iterator[None]:
    """One process at a time makes a pod or gives it back; another is waited for, `patience` seconds at most."""
    until = time.monotonic() + patience
    with open(folder / "prepare.lock", "w", encoding="utf-8") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    break
                time.sleep(0.2)
        yield


def prepared(pod: Enlisted, *, renew: bool = False) -> None:
    """Brings code and setup to the pod's hosts, once; RequestError where that fails.

    `renew`: the hosts may be gone since.
    """
    with preparing(pod.folder):
        if not (pod.folder / "prepared").exists():
            pod.launch.target.prepare(pod.launch.plan)
            (pod.folder / "prepared").touch()
        elif renew:
            pod.launch.target.renew(pod.launch.plan)


def shared_state(pod: Enlisted, folder: Path, *, back: bool = False) -> None:
    """Gives an attempt what preparing the pod has found out, or (`back`) the pod what the attempt has."""
    source, to = (folder, pod.folder) if back else (pod.folder, folder)
    for name in _STATE:
        if (source / name).exists():
            write_atomic(to / name, (source / name).read_text(encoding="utf-8"))
    code = pod.folder / "code"
    if not back and code.is_dir() and not (folder / "code").exists():
        os.symlink(code, folder / "code")
