"""Runs on hosts as seen from here: their metrics and results are brought into the sweep's folder while they go."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.io.files import write_atomic
from lmx.launch.host import MARK, Host, Unreachable, missing_program

FILES = ("config.yaml", "overrides.yaml", "provenance.json", "metrics.jsonl", "log.txt", "summary.json")
"""What a sweep reads of a run, the summary last: where it is here, the rest is."""

_TIMEOUT = 60.0


class Place(NamedTuple):
    """A run directory on a host; a relative one is in the working directory there."""

    host: Host
    workdir: str
    run_dir: str


class Look(NamedTuple):
    """A run on a host: its newest checkpoint, and the process that works in its directory."""

    checkpoint: int | None
    holder: str | None


def ask(host: Host, do: str, **arguments: Any) -> Any:
    """The answer of `lmx.sweep.on_host` there. Unreachable where there is none, RequestError where it cannot."""
    source = Path(__file__).with_name("on_host.py").read_bytes()
    request = json.dumps({"do": do, "with": arguments}).encode()
    text = b"%d\n%s%s\n" % (len(source), source, request)
    try:
        done = subprocess.run(host.argv(), input=text, capture_output=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{host.name}: no answer within {_TIMEOUT:.0f} s") from None
    except FileNotFoundError:
        raise RequestError(missing_program(host.argv()[0])) from None
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):
        if line.startswith(MARK):
            answer = json.loads(line[len(MARK) :])
            if "error" in answer:
                raise RequestError(f"{host.name}: {answer['error']}")
            return answer["answer"]
    said = done.stderr.decode(errors="replace").strip().splitlines()
    raise Unreachable(f"{host.name}: {said[-1] if said else f'exit code {done.returncode}'}")


def look(place: Place) -> Look:
    """How far the run is."""
    answer = ask(place.host, "look", cwd=place.workdir, run_dir=place.run_dir, known={})
    return Look(answer["checkpoint"], answer["holder"])


def bring(place: Place, here: Path) -> Look:
    """The same; what is new in the run's small files is written into `here`."""
    known = {name: _known(here / name) for name in FILES}
    answer = ask(place.host, "look", cwd=place.workdir, run_dir=place.run_dir, known=known)
    for name in FILES:
        if name in answer["files"]:
            at, packed = answer["files"][name]
            _write(here / name, at, zlib.decompress(base64.b64decode(packed)))
    return Look(answer["checkpoint"], answer["holder"])


def _known(path: Path) -> tuple[int, str]:
    data = path.read_bytes() if path.exists() else b""
    return len(data), hashlib.sha256(data).hexdigest()


def _write(path: Path, at: int, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if at:
        with open(path, "ab") as stream:
            stream.write(data)
    else:
        write_atomic(path, data.decode(errors="replace"))
