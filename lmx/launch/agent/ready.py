"""What a host has, and what it is given before processes start: code, and a setup that runs once."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import tempfile

from lmx.launch.agent.process import Refused

PROGRAM = """
import hashlib, importlib.util, json, os, sys
from importlib import metadata
code, *names = sys.argv[1:]
found = {}
for name in names:
    try: found[name] = metadata.version(name)
    except metadata.PackageNotFoundError: found[name] = None
sys.path[:] = [code, *filter(None, sys.path)] if code else sys.path
spec = importlib.util.find_spec("lmx") if names else None
places = list(spec.submodule_search_locations or ())[:1] if spec else []
files = sorted((os.path.relpath(os.path.join(folder, name), place), os.path.join(folder, name))
               for place in places for folder, _, inside in os.walk(place) for name in inside if name.endswith(".py"))
digest = hashlib.sha256()
for short, path in files:
    with open(path, "rb") as stream: digest.update(short.encode() + b"\\0" + stream.read() + b"\\0")
version = ".".join(map(str, sys.version_info[:3]))
print(json.dumps({"python": version, "packages": found, "lmx_files": digest.hexdigest()[:12] if files else None}))
"""
"""What the Python that runs use is asked: its version, those of packages, a hash of the lmx that it imports."""


def probe(python, code=None, packages=(), workdir=None, look_up=None):
    """Versions on this host, of the Python that runs use; a free port; the name the host gives itself.

    `folder`: whether `code` is there; `code`: whether lmx is in it; `unwritable`: why nothing can be written into
    `workdir`; `leads`: the address that the name `look_up` leads to from here, None: to none."""
    code = os.path.expanduser(code or "")
    try:
        done = subprocess.run(
            [os.path.expanduser(python), "-c", PROGRAM, code, *packages],
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
    there = {
        "folder": bool(code) and os.path.isdir(code),
        "code": bool(code) and os.path.isdir(f"{code}/lmx"),
    }
    return {
        **json.loads(done.stdout),
        **addresses(),
        **there,
        "port": port,
        "leads": leads(look_up) if look_up else None,
        "unwritable": unwritable(workdir),
    }


def unwritable(workdir):
    """Why runs could not write into their working directory; None where they can. What is made for that goes again."""
    if workdir is None:
        return None
    folder, made = os.path.abspath(os.path.expanduser(workdir)), []
    while not os.path.lexists(folder):
        made.append(folder)
        folder = os.path.dirname(folder)
    folder = os.path.abspath(os.path.expanduser(workdir))
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"lmx")
    except OSError as error:
        return error.strerror
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                os.rmdir(path)
    return None


def addresses():
    """How this host is called, what it takes that name for, and the address of its own that ssh has reached it by."""
    name = socket.gethostname()
    try:
        own = socket.gethostbyname(name)
    except OSError:
        own = None
    reached = os.environ.get("SSH_CONNECTION", "").split()
    return {"name": name, "own": own, "address": reached[2] if len(reached) == 4 else None}


def leads(name):
    """The address that a name, or an address, leads to from here; None: to none."""
    try:
        return socket.getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError:
        return None


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
