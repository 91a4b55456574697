"""What is asked of a host about run directories: this text is sent there, so a host needs nothing but a Python.

A run directory on a host is looked at from here: how far it is, who works in it, and the small files that a sweep
reads (metrics, summary), of which only what is new is sent.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import sys
import zlib


def place(cwd, path):
    """A path of the host; a relative one is in the working directory of the runs."""
    return os.path.join(os.path.expanduser(cwd), os.path.expanduser(path))


def look(cwd, run_dir, known):
    """The newest checkpoint, who holds the run's lock, what is new in files: name -> [bytes known, their SHA-256]."""
    folder = place(cwd, run_dir)
    files = {}
    for name, (size, digest) in known.items():
        try:
            with open(os.path.join(folder, name), "rb") as stream:
                data = stream.read()
        except OSError:
            continue
        same = size <= len(data) and hashlib.sha256(data[:size]).hexdigest() == digest
        at = size if same else 0
        if not same or len(data) > size:
            files[name] = [at, base64.b64encode(zlib.compress(data[at:])).decode()]
    return {"checkpoint": newest_checkpoint(folder), "holder": holder(folder), "files": files}


def newest_checkpoint(folder):
    """The newest step whose manifest is there: it is written last."""
    try:
        names = os.listdir(folder + "/checkpoints")
    except OSError:
        return None
    whole = [n for n in names if n.isdigit() and os.path.exists(f"{folder}/checkpoints/{n}/lmx.json")]
    return max(map(int, whole), default=None)


def holder(folder):
    """What the process that works in the run's directory says of itself; None where there is none."""
    try:
        with open(folder + "/lock", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return stream.read().strip() or "another process"
    except OSError:
        pass
    return None


def touch(cwd, path):
    """Makes an empty file."""
    path = place(cwd, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "a").close()
    return True


def remove(cwd, path, names):
    """Removes files in a folder, and the folder if it is empty then."""
    folder = place(cwd, path)
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    return True


def which(cwd, path, names):
    """The names that are in a folder."""
    os.listdir(place(cwd, path))  # a network file system looks anew
    return [name for name in names if os.path.exists(os.path.join(place(cwd, path), name))]


def main(request, data=b""):
    """Does what the request asks; the answer is one line of JSON on standard output."""
    try:
        answer = {"answer": globals()[request["do"]](**request["with"])}
    except OSError as error:
        answer = {"error": f"{error.strerror or error}: {error.filename or ''}"}
    sys.stdout.write("\nlmx-agent " + json.dumps(answer) + "\n")
    sys.stdout.flush()
