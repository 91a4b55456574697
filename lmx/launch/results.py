"""Results of a run that another machine holds, brought to the run's folder here. Checkpoints stay where they are."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

from lmx.launch.host import Host

RESULTS = ("config.yaml", "overrides.yaml", "provenance.json", "metrics.jsonl", "log.txt", "summary.json")
TIMEOUT = 120.0


def bring(host: Host, *, cwd: str, run_dir: str, to: Path) -> None:
    """Copies what there is of RESULTS from a run directory on a host into the folder `to`.

    A file that is the same already is left alone: the two may be one folder. Unreachable as of `Host.call`.
    """
    known: dict[str, bytes] = {}
    open_ = dict.fromkeys(RESULTS, True)
    while any(open_.values()):
        offsets = {name: len(known.get(name, b"")) for name, more in open_.items() if more}
        answer = host.call("fetch", timeout=TIMEOUT, cwd=cwd, run_dir=run_dir, offsets=offsets)
        open_ = {}
        for name, (data, more) in answer["files"].items():
            known[name] = known.get(name, b"") + zlib.decompress(base64.b64decode(data))
            open_[name] = more
    for name, data in known.items():
        path = to / name
        if path.exists() and path.read_bytes() == data:
            continue
        temporary = path.with_name(f".{name}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)
