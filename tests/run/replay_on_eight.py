"""Run by test_replay.py with 8 devices: replays on a mesh with a bit flipped where it is told, a line of JSON each.

python -m tests.run.replay_on_eight FOLDER MESH ACCUMULATION [WHERE:DEVICE ...]
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lmx.faults import BitFlip
from lmx.faults.config import Site
from lmx.io.ledger import read_ledger
from lmx.run.build import build, make_state, to_devices
from lmx.run.ledger import Ledger
from lmx.run.replay import Replay
from lmx.run.replay_config import Replay as Config
from lmx.run.roll_call import RollCall
from lmx.train.observe import Observer
from lmx.types import Batch
from tests.support import read_option, train_config

jax.config.update("jax_disable_most_optimizations", True)


def batch(rows: int, length: int) -> Batch:
    tokens = np.random.default_rng(0).integers(0, 256, (rows, length + 1)).astype(np.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], np.ones((rows, length), np.float32))


def main(folder: Path, mesh: str, accumulation: int, flips: list[str]) -> None:
    trainer = {"global_batch_size": 16, "sequence_length": 16, "accumulation": accumulation}
    config = train_config({"mesh": mesh, "trainer": trainer, "model": {"n_layers": 1}})
    settings = {**read_option("replay", "warn"), "every": 5}
    config = config.model_copy(update={"replay": Config.model_validate(settings)})
    parts = build(config, total_steps=10)
    params = make_state(config, parts).params
    rows = to_devices(batch(16, 16), parts.batch_sharding)
    said: list[str] = []
    ledger = Ledger(folder, {"attempt": 0}, range(16), every=10, began=0.0, process=0, warn=said.append)
    ledger.start(0, 10)
    replay = Replay(config, parts, RollCall(), ledger, said.append)
    for number, flip in enumerate(["", *flips]):
        where, _, device = flip.partition(":")
        observer: Any = None
        if flip:
            tree = {**read_option("fault", "bit_flip"), "step": 5, "where": where, "device": int(device)}
            run = folder / str(number)
            run.mkdir()
            observer = BitFlip.model_validate(tree).build(Site(run, 0, None))
        touch = lambda at, one=observer or Observer(): partial(one.copied, 5, at)
        found = replay.look(5, params, rows, touch)
        told = None if found is None else [found.what, [d.id for d in found.devices], found.error]
        print(json.dumps({"flip": flip, "found": told, "said": said[-1]}), flush=True)
    noted = [
        line["what"] for line in read_ledger(folder / "ledger.jsonl").objects if line["event"] == "corruption"
    ]
    print(json.dumps({"noted": noted}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
