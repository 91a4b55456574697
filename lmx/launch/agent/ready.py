"""What a host has, and what it is given before processes start: code, and a setup that runs once."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess

from lmx.launch.agent.process import Refused


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
    return {**json.loads(done.stdout), **addresses(), "port": port, "code": there}


def addresses():
    """How this host is called, what it takes that name for, and the address of its own that ssh has reached it by."""
    name = socket.gethostname()
    try:
        own = socket.gethostbyname(name)
    except OSError:
        own = None
    reached = os.environ.get("SSH_CONNECTION", "").split()
    return {"name": name, "own": own, "address": reached[2] if len(reached) == 4 else None}


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
