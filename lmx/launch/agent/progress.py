"""A run's directory as a host sees it: how far the run is, and what an attempt in vain has left."""

from __future__ import annotations

import base64
import json
import os
import zlib

OWN = ("config.yaml", "overrides.yaml", "metrics.jsonl", "summary.json", "provenance.json", "checkpoints")
OWN_TOO = ("tensorboard", "log.txt")
PIECE = 1 << 24


def last_row(run_dir):
    """Step and loss of the last row of metrics that has them; None where there is none."""
    try:
        with open(run_dir + "/metrics.jsonl", "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 65536))
            lines = stream.read().splitlines()
    except OSError:
        lines = []
    step = None
    for line in reversed(lines):
        try:
            row = json.loads(line)
            step = int(row["step"]) if step is None else step
            return {"step": step, "loss": float(row["loss"])}
        except (ValueError, KeyError, TypeError):
            continue
    return {"step": step, "loss": None}


def newest_checkpoint(run_dir):
    """The newest step whose manifest is there: it is written last."""
    try:
        names = os.listdir(run_dir + "/checkpoints")
    except OSError:
        return None
    whole = [n for n in names if n.isdigit() and os.path.exists(f"{run_dir}/checkpoints/{n}/lmx.json")]
    return max(map(int, whole), default=None)


def fetch(cwd, run_dir, offsets):
    """Of each file of {name: bytes that are known}: what follows, packed, and whether more does."""
    place = os.path.join(os.path.expanduser(cwd), os.path.expanduser(run_dir))
    found = {}
    for name, offset in offsets.items():
        try:
            with open(os.path.join(place, name), "rb") as stream:
                stream.seek(offset)
                data = stream.read(PIECE)
                found[name] = [base64.b64encode(zlib.compress(data)).decode(), bool(stream.read(1))]
        except OSError:
            continue
    return {"files": found}


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
