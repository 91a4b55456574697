"""How the processes of an attempt are, and what they have written."""

from __future__ import annotations

import base64
import os
import time

from lmx.launch.agent.process import alive, boot, read
from lmx.launch.agent.progress import last_row, newest_checkpoint

CHUNK = 1 << 18


def poll(folder, tasks, offsets=None, cwd=".", run_dir=None):
    """How the tasks are, and what they have written since `offsets` ({"0.log": bytes}), base64."""
    folder = os.path.abspath(os.path.expanduser(folder))
    supervised = alive(read(folder + "/supervisor.pid"))
    found = {str(index): look(f"{folder}/task-{index}", supervised) for index in tasks}
    texts = {name: tail(os.path.join(folder, "task-" + name), at) for name, at in (offsets or {}).items()}
    answer = {"tasks": found, "texts": texts, "time": time.time()}
    if run_dir:
        place = os.path.join(os.path.expanduser(cwd), os.path.expanduser(run_dir))
        answer.update(last_row(place), checkpoint=newest_checkpoint(place))
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
        full = f"the disk of {ended['full']} is full" if ended.get("full") else ""
        return {"state": "ended", "exit_code": ended["code"], "ended": ended["time"], "message": full}
    if identity is None:
        return {"state": "waiting" if supervised else "lost", "message": "it was not started"}
    if alive(identity) or supervised:  # its parent lives, and will tell the exit code
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
