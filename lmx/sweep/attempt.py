"""One attempt at a job: `python attempt.py JOB_DIR RUN_DIR` starts `lmx train`, or lets it go on.

It is a script of its own and imports nothing of lmx: it becomes that process.
"""

import os
import sys
from pathlib import Path


def command(job: Path, run: Path) -> list[str]:
    """The words after `python -m lmx`: from the newest checkpoint where there is one, else from the start.

    What an earlier attempt left without a checkpoint is put aside into the job's folder.
    """
    resume = any(run.glob("checkpoints/*/lmx.json")) and (run / "config.yaml").is_file()
    if run.exists() and not resume:
        number = len(list(job.glob("before-*"))) + 1
        run.rename(job / f"before-{number}")
    more = ["--resume"] if resume else []
    return ["train", "--frozen", str(job / "config.yaml"), f"hydra.run.dir={run}", *more]


if __name__ == "__main__":
    job_dir, run_dir = Path(sys.argv[1]), Path(sys.argv[2])
    environment = {**os.environ, "LMX_STOP_FILE": str(job_dir / "stop")}
    words = [sys.executable, "-m", "lmx", *command(job_dir, run_dir)]
    os.execve(sys.executable, words, environment)
