"""A command over the example configuration: fails, stops or works, as its `steps` say."""

import sys
from pathlib import Path

from lmx.cli.command import Command
from lmx.cli.job import execute
from lmx.config.errors import RequestError, Resumable, requests

CONF = Path(__file__).parents[1] / "config" / "example" / "conf"


def run(composed, run_dir: Path) -> float:
    steps = composed.config.steps
    if steps == 13:
        raise RuntimeError("the device fell off")
    if steps == 14:
        raise Resumable(f"stopped at step 3; lmx run resume={run_dir}")
    if steps == 15:
        raise RequestError("data.path=a.txt: there is no such file")
    if steps == 16:
        with requests():
            raise ValueError("model.n_layers=2: too few")
    if steps == 17:
        with requests():
            Path("no/such/file").read_text()
    if steps == 18:
        path = Path("own/model/mine.yaml")
        path.write_text(path.read_text().replace("n_layers: 3", "n_layers: 4"))
    (run_dir / "config.yaml").write_text(composed.yaml())
    print(f"ran {composed.config.name} for {steps} in {run_dir}")
    return 1.0 / steps


COMMAND = Command(
    name="run",
    summary="an example",
    schema="tests.config.example.schema:Run",
    function=run,
    keys=("steps", "optimizer.learning_rate"),
    examples=(("lmx run steps=3", "a short one"),),
    resumable=True,
    extendable=("steps",),
)

if __name__ == "__main__":
    sys.exit(execute(COMMAND, ["--config-path", str(CONF), *sys.argv[1:]]))
