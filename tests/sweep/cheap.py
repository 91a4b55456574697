"""A job that costs nothing: steps that only sleep, a checkpoint each second step, and a result that its path decides.

cheap.py JOB_DIR RUN_DIR; seeds 666 and 2222 fail, with exit code 1 and 2.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import yaml

job, run = Path(sys.argv[1]), Path(sys.argv[2])
config = yaml.safe_load((job / "config.yaml").read_text())
seed, steps = config["trainer"]["seed"], config["trainer"]["steps"]
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
run.mkdir(exist_ok=True)
with open(run / "starts", "a") as stream:
    stream.write(f"{os.getpid()}\n")
if seed == 666:
    print("lmx train: planted failure")
    sys.exit(1)
if seed == 2222:
    print("lmx train: planted bad request")
    sys.exit(2)
(run / "config.yaml").write_text(yaml.safe_dump({**config, "resume": None}))
found = sorted((int(p.parent.name) for p in run.glob("checkpoints/*/lmx.json")), reverse=True)
step, value = (
    (found[0], json.loads((run / f"checkpoints/{found[0]}/lmx.json").read_text())) if found else (0, seed)
)
if found:
    kept = [r for r in (run / "metrics.jsonl").read_text().splitlines() if json.loads(r)["step"] <= step]
    (run / "metrics.jsonl").write_text("".join(f"{r}\n" for r in kept))
else:
    (run / "metrics.jsonl").unlink(missing_ok=True)
pause = float(os.environ.get("CHEAP_PAUSE", "0.02"))
while step < steps:
    time.sleep(pause)
    step += 1
    value = (value * 1103515245 + 12345) % 2**31
    loss = config["optimizer"]["learning_rate"] * 100 + value / 2**33
    with open(run / "metrics.jsonl", "a") as stream:
        stream.write(json.dumps({"step": step, "loss": loss, "eval/loss": loss}) + "\n")
    if step % 2 == 0 or stopped:
        new = run / f"checkpoints/.writing-{step}"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        (new / "lmx.json").write_text(json.dumps(value))
        if not (run / f"checkpoints/{step}").exists():
            new.rename(run / f"checkpoints/{step}")
        if stopped or Path(os.environ.get("LMX_STOP_FILE", job / "stop")).exists():
            sys.exit(75)
temporary = run / "summary.tmp"
temporary.write_text(json.dumps({"status": "done", "steps": step, "loss": loss, "eval_loss": loss}))
temporary.rename(run / "summary.json")
