"""Starts the processes of an attempt, and stays as their parent until they have ended."""

from __future__ import annotations

import glob
import json
import os
import signal
import subprocess
import time

from lmx.launch.agent.process import Refused, alive, boot, read, signal_group, started, write
from lmx.launch.agent.progress import move_aside
from lmx.launch.agent.tpu_lock import TPU_DEVICES, clear_tpu_lock

RESERVED = 512
"""Bytes of an exit file."""
FULL = 1 << 20
"""Bytes left on a disk below which it is full."""


def start(folder, cwd, tasks, run_dir=None, reset=None, files=None, path=None):
    """Starts the tasks under a supervisor that outlives this process. Doing it again while they live does nothing.

    tasks  [{"index", "argv", "environment"}]      files  name -> text, written into `folder` first
    reset  number of this attempt: what earlier attempts left in `run_dir` (no checkpoint) is moved aside first
    path   folder that is put before PYTHONPATH
    """
    folder, cwd = os.path.abspath(os.path.expanduser(folder)), os.path.abspath(os.path.expanduser(cwd))
    os.makedirs(folder, exist_ok=True)
    os.makedirs(cwd, exist_ok=True)
    if alive(read(folder + "/supervisor.pid")):
        return {"already": True}
    place = os.path.join(cwd, os.path.expanduser(run_dir)) if run_dir else None
    if reset is not None and place:
        move_aside(place, reset)
    lock = clear_tpu_lock() if any(glob.glob(path) for path in TPU_DEVICES) else "no TPU here"
    for name, text in (files or {}).items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as stream:
            stream.write(text)
    ready, done = os.pipe()
    if os.fork() == 0:
        os.close(ready)
        os.setsid()
        if os.fork() == 0:
            supervise(folder, cwd, tasks, path, done, place)
        os._exit(0)
    os.close(done)
    with os.fdopen(ready, "rb") as stream:
        said = stream.read().decode()
    os.wait()
    if said != "started":
        raise Refused(said or "the supervisor died before it started anything")
    return {"lock": lock}


def supervise(folder, cwd, tasks, path, done, run_dir):
    """The life of the supervisor: starts each task, and waits for all of them."""
    try:
        null, log = (
            os.open(os.devnull, os.O_RDONLY),
            os.open(folder + "/supervisor.log", os.O_CREAT | os.O_WRONLY),
        )
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        write(folder + "/supervisor.pid", {"pid": os.getpid(), "began": started(os.getpid()), "boot": boot()})
        children = {}
        for task in tasks:
            reserve(f"{folder}/task-{task['index']}.exit")
            child = spawn(folder, cwd, task, path)
            children[child.pid] = task["index"]
            identity = {"pid": child.pid, "began": started(child.pid), "boot": boot()}
            write(f"{folder}/task-{task['index']}.pid", identity)
        os.write(done, b"started")
    except BaseException as error:
        for pid in locals().get("children", {}):
            signal_group(pid, signal.SIGKILL)
        os.write(done, (f"{type(error).__name__}: {error}").encode())
        os._exit(1)
    os.close(done)
    while children:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert found is not None
        moment, pid = time.time(), found.si_pid
        if pid in children:
            signal_group(
                pid, signal.SIGKILL
            )  # what it has left behind; its id is not given away before the wait
            code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
            note_exit(f"{folder}/task-{children.pop(pid)}.exit", code, moment, (folder, cwd, run_dir))
        os.waitpid(pid, 0)
    os._exit(0)


def reserve(path):
    """Makes the room for an exit code, which has to be told when the disk is full too."""
    with open(path, "wb") as stream:
        stream.write(b" " * RESERVED)
        stream.flush()
        os.fsync(stream.fileno())


def note_exit(path, code, moment, places):
    """Writes an exit code into the room that is reserved for it; beside it the place whose disk is full, if one is."""
    full = "" if code == 0 else next(filter(None, map(full_disk, places)), "")
    text = json.dumps({"code": code, "time": moment, "full": full}).encode()
    if len(text) > RESERVED:
        text = json.dumps({"code": code, "time": moment, "full": "a disk"}).encode()
    with open(path, "r+b") as stream:
        stream.write(text.ljust(RESERVED))


def full_disk(path):
    """The path where its disk has no room left, else None."""
    try:
        found = os.statvfs(path)
    except (OSError, TypeError):
        return None
    return (
        path
        if found.f_blocks and (found.f_bavail * found.f_frsize < FULL or found.f_ffree == 0 < found.f_files)
        else None
    )


def spawn(folder, cwd, task, path):
    """One process, in a session of its own."""
    environment = {**os.environ, **task["environment"]}
    if path:
        code = os.path.abspath(os.path.expanduser(path))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [code, environment.get("PYTHONPATH")]))
    argv = [os.path.expanduser(word.replace("{folder}", folder)) for word in task["argv"]]
    name = f"{folder}/task-{task['index']}"
    with open(name + ".out", "ab") as out, open(name + ".log", "ab") as log:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            start_new_session=True,
        )
