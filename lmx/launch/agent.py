"""What runs on a host: starts the processes of an attempt, tells how they are, stops them. Standard library alone.

This file is sent to the host as text (see `bootstrap`), so a host needs nothing but a Python. Each process gets a
session and process group of its own; its identity is its id together with the moment it was started, so a number
that the system has given to another process since is never signalled.

In the attempt's folder on the host:
    task-N.pid    id, start time and boot of the process        task-N.exit   exit code and time
    task-N.log    its standard error                            task-N.out    its standard output
    supervisor.*  the same of the parent, which outlives the connection that started it
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import glob
import json
import os
import signal
import socket
import subprocess
import sys
import time

LOCK = "/tmp/libtpu_lockfile"
TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")
CHUNK = 1 << 18
OWN = ("config.yaml", "overrides.yaml", "metrics.jsonl", "summary.json", "provenance.json", "checkpoints")
OWN_TOO = ("tensorboard", "log.txt")


# ---- processes


def started(pid):
    """When a process began, in clock ticks since the boot; None where it is gone (or a zombie)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def boot():
    """A name of this start of the machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as stream:
            return stream.read().strip()
    except OSError:
        return "unknown"


def alive(identity):
    """Whether the process of a pid file is still that process."""
    return (
        identity is not None and identity["boot"] == boot() and started(identity["pid"]) == identity["began"]
    )


def read(path):
    """A JSON file, or None."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return None


def write(path, value):
    """A JSON file, whole or not there."""
    with open(path + ".tmp", "w", encoding="utf-8") as stream:
        json.dump(value, stream)
    os.replace(path + ".tmp", path)


def signal_group(pid, number):
    """A signal to the process group that a process leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


# ---- start


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
    if reset is not None and run_dir:
        move_aside(os.path.join(cwd, os.path.expanduser(run_dir)), reset)
    lock = clear_tpu_lock() if any(glob.glob(path) for path in TPU_DEVICES) else "no TPU here"
    for name, text in (files or {}).items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as stream:
            stream.write(text)
    ready, done = os.pipe()
    if os.fork() == 0:
        os.close(ready)
        os.setsid()
        if os.fork() == 0:
            supervise(folder, cwd, tasks, path, done)
        os._exit(0)
    os.close(done)
    with os.fdopen(ready, "rb") as stream:
        said = stream.read().decode()
    os.wait()
    if said != "started":
        raise Refused(said or "the supervisor died before it started anything")
    return {"lock": lock}


def supervise(folder, cwd, tasks, path, done):
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
            write(f"{folder}/task-{children.pop(pid)}.exit", {"code": code, "time": moment})
        os.waitpid(pid, 0)
    os._exit(0)


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


def move_aside(run_dir, number):
    """What an attempt without a checkpoint left in the run's directory, so that the next one finds it empty."""
    if newest_checkpoint(run_dir) is not None:
        return
    aside = os.path.join(run_dir, f"before-attempt-{number}")
    names = os.listdir(run_dir) if os.path.isdir(run_dir) else []
    for name in names:
        if name in OWN + OWN_TOO or (name.startswith("log") and name.endswith(".txt")):
            os.makedirs(aside, exist_ok=True)
            os.replace(os.path.join(run_dir, name), os.path.join(aside, name))


# ---- the lock file of libtpu


def clear_tpu_lock(path=LOCK):
    """Removes the lock file that a dead process left; raises where its holder lives. What was done, in words."""
    if not os.path.exists(path):
        return "none"
    holders = holders_of(path)
    if holders:
        names = ", ".join(f"process {pid} ({command})" for pid, command in holders)
        raise Refused(f"the TPU is in use: {path} is held by {names}; end that first")
    try:
        with open(path) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except BlockingIOError:
        raise Refused(f"the TPU is in use: {path} is locked by a process of another user") from None
    except PermissionError:
        raise Refused(
            f"{path} belongs to another user, and its holder cannot be seen; remove it by hand"
        ) from None
    return "removed: its holder is dead"


def holders_of(path):
    """(pid, command) of each process that has the file open, as far as this user may see."""
    found, real = [], os.path.realpath(path)
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            links = [os.readlink(f"/proc/{name}/fd/{fd}") for fd in os.listdir(f"/proc/{name}/fd")]
            if real in links:
                with open(f"/proc/{name}/comm") as stream:
                    found.append((int(name), stream.read().strip()))
        except OSError:
            continue
    return found


# ---- look


def poll(folder, tasks, offsets=None, cwd=".", run_dir=None):
    """How the tasks are, and what they have written since `offsets` ({"0.log": bytes}), base64."""
    folder = os.path.abspath(os.path.expanduser(folder))
    supervised = alive(read(folder + "/supervisor.pid"))
    found = {str(index): look(f"{folder}/task-{index}", supervised) for index in tasks}
    texts = {name: tail(os.path.join(folder, "task-" + name), at) for name, at in (offsets or {}).items()}
    answer = {"tasks": found, "texts": texts, "time": time.time()}
    if run_dir:
        place = os.path.join(os.path.expanduser(cwd), os.path.expanduser(run_dir))
        answer.update(step=last_step(place), checkpoint=newest_checkpoint(place))
    return answer


def look(name, supervised):
    """State, exit code and time of one task."""
    identity, ended = read(name + ".pid"), read(name + ".exit")
    if ended is None and identity is not None and not alive(identity):
        for _ in range(20 if supervised else 1):  # its parent may be about to write
            ended = read(name + ".exit")
            if ended is not None:
                break
            time.sleep(0.05)
    if ended is not None:
        return {"state": "ended", "exit_code": ended["code"], "ended": ended["time"]}
    if identity is None:
        return {"state": "waiting" if supervised else "lost", "message": "it was not started"}
    if alive(identity):
        return {"state": "running"}
    why = "the host was restarted" if identity["boot"] != boot() else "its supervisor was killed with it"
    return {"state": "lost", "exit_code": -9, "ended": os.path.getmtime(name + ".log"), "message": why}


def tail(path, offset):
    """At most CHUNK bytes of a file after an offset."""
    try:
        with open(path, "rb") as stream:
            stream.seek(offset)
            return base64.b64encode(stream.read(CHUNK)).decode()
    except OSError:
        return ""


def last_step(run_dir):
    """The step of the last row of metrics."""
    try:
        with open(run_dir + "/metrics.jsonl", "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 65536))
            lines = stream.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def newest_checkpoint(run_dir):
    """The newest step whose manifest is there: it is written last."""
    try:
        names = os.listdir(run_dir + "/checkpoints")
    except OSError:
        return None
    whole = [n for n in names if n.isdigit() and os.path.exists(f"{run_dir}/checkpoints/{n}/lmx.json")]
    return max(map(int, whole), default=None)


# ---- stop


def stop(folder, tasks, grace=60.0):
    """SIGTERM to the tasks that live, after `grace` seconds SIGKILL to their groups; which needed it."""
    folder = os.path.abspath(os.path.expanduser(folder))
    found = {index: read(f"{folder}/task-{index}.pid") for index in tasks}
    living = {index: identity for index, identity in found.items() if identity and alive(identity)}
    for identity in living.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity["pid"], signal.SIGTERM)
    until = time.monotonic() + grace
    while any(alive(identity) for identity in living.values()) and time.monotonic() < until:
        time.sleep(0.05)
    killed = [index for index, identity in living.items() if alive(identity)]
    for index in killed:
        signal_group(living[index]["pid"], signal.SIGKILL)
    until = time.monotonic() + 5
    while any(alive(identity) for identity in living.values()) and time.monotonic() < until:
        time.sleep(0.02)
    return {"stopped": sorted(living), "killed": killed}


# ---- before the start


def probe(python, code=None, packages=()):
    """Versions on this host, of the Python that runs use; a free port; the name the host gives itself."""
    program = (
        "import json,sys\nfrom importlib import metadata as m\nfound={}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name]=m.version(name)\n"
        "    except m.PackageNotFoundError: found[name]=None\n"
        "print(json.dumps({'python':'.'.join(map(str,sys.version_info[:3])),'packages':found}))"
    )
    try:
        done = subprocess.run(
            [os.path.expanduser(python), "-c", program, *packages],
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except OSError as error:
        raise Refused(f"{python} cannot be run: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise Refused(f"{python} failed: {last}")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    there = code is not None and os.path.isdir(os.path.join(os.path.expanduser(code), "lmx"))
    return {**json.loads(done.stdout), "name": socket.gethostname(), "port": port, "code": there}


def unpack(folder, data=b""):
    """A snapshot of code, unpacked into `folder`; nothing where it is there already."""
    import io
    import shutil
    import tarfile

    folder = os.path.abspath(os.path.expanduser(folder))
    if os.path.isdir(folder):
        return {"already": True}
    partial = f"{folder}.{os.getpid()}.{socket.gethostname()}.partial"
    os.makedirs(partial)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(partial)
    try:
        os.rename(partial, folder)
    except OSError:  # another process was quicker: hosts may share a file system
        shutil.rmtree(partial)
        if not os.path.isdir(folder):
            raise
    return {"already": False}


def setup(command, folder, mark, cwd="."):
    """Runs a shell command once: again only where it is another command, or failed. Its log is kept, its end told."""
    folder, cwd = os.path.abspath(os.path.expanduser(folder)), os.path.abspath(os.path.expanduser(cwd))
    os.makedirs(folder, exist_ok=True)
    os.makedirs(cwd, exist_ok=True)
    done, log = os.path.join(folder, mark + ".done"), os.path.join(folder, mark + ".log")
    with open(os.path.join(folder, mark + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(done):
            return {"already": True, "log": log}
        with open(log, "wb") as stream:
            code = subprocess.call(
                ["sh", "-c", command],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        if code:
            with open(log, errors="replace") as stream:
                last = "".join(stream.readlines()[-5:]).strip()
            raise Refused(f"setup ended with code {code} ({log}): {last}")
        open(done, "w").close()
    return {"already": False, "log": log}


class Refused(Exception):
    """What cannot be done on this host, in words."""


ACTIONS = {f.__name__: f for f in (start, poll, stop, probe, unpack, setup)}


def main(request, data=b""):
    """Does what the request asks; the answer is one line of JSON on standard output."""
    try:
        if data:
            request["with"]["data"] = data
        answer = {"answer": ACTIONS[request["do"]](**request["with"])}
    except Refused as error:
        answer = {"error": str(error)}
    except OSError as error:
        answer = {"error": f"{error.strerror or error}: {error.filename or ''}"}
    sys.stdout.write("\nlmx-agent " + json.dumps(answer) + "\n")
    sys.stdout.flush()
