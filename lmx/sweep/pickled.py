"""One job of a Hydra launcher, in a process of its own: `python -m lmx.sweep.pickled JOB_DIR RUN_DIR`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def main(job: Path) -> int:
    """Runs JOB_DIR/job.pickle, writes JOB_DIR/return.pickle; the exit code."""
    import cloudpickle
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobStatus, run_job, setup_globals

    os.environ["LMX_STOP_FILE"] = str(job / "stop")
    setup_globals()
    content = cloudpickle.loads((job / "job.pickle").read_bytes())
    Singleton.set_state(content["singletons"])
    task, config = content["task_function"], content["config"]
    _go_on(task, config, job)
    found = run_job(
        hydra_context=content["hydra_context"],
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    temporary = job / "return.tmp"
    temporary.write_bytes(cloudpickle.dumps(found))
    temporary.rename(job / "return.pickle")
    if found.status == JobStatus.COMPLETED:
        return 0
    code = getattr(found._return_value, "exit_code", 1)
    print(f"lmx job failed: {found._return_value}", file=sys.stderr)
    return code if isinstance(code, int) else 1


def _go_on(task: Any, config: Any, job: Path) -> None:
    """A run of lmx with a checkpoint goes on; what an earlier attempt left without one is put aside."""
    from lmx.config.overrides import write_value

    run = Path(str(config.hydra.sweep.dir)).absolute() / str(config.hydra.sweep.subdir)
    if not hasattr(task, "resumed") or not (run / "config.yaml").is_file():
        return
    if any(run.glob("checkpoints/*/lmx.json")):
        task.resumed = [f"resume={write_value(str(run))}"]
    elif len(list(job.glob("attempt-*"))) > 1:
        run.rename(job / f"before-{len(list(job.glob('before-*'))) + 1}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
