"""What watches a run: every observer of a configuration and of the environment, in the order they are called."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from lmx.faults.config import Site
from lmx.run.build import Parts
from lmx.run.config import TrainConfig
from lmx.run.hosts import several
from lmx.run.ledger import Ledger
from lmx.run.stragglers import Stragglers
from lmx.run.watchdog import Watchdog
from lmx.run.witness import WITNESS, Witness
from lmx.sharding.rows import rows_of_process
from lmx.train.observe import Observer, Observers


def observers_of(
    config: TrainConfig, parts: Parts, run_path: Path, ledger: Ledger, *more: Observer | None
) -> Observers:
    """The observers of a run in the directory `run_path`; `ledger` is the last, so that it sees what is trained on.

    `more` come before it: what they put into a row is in the ledger.
    """
    found: list[Observer] = []
    if folder := os.environ.get(WITNESS):
        rows = rows_of_process(parts.batch_sharding).rows(config.trainer.batch_sequences())
        found.append(Witness(Path(folder) / f"{jax.process_index()}.jsonl", rows))
    watchdog, log_every = Watchdog(config.watchdog, run_path), config.trainer.log_every
    if config.watchdog.hosts_every is not None and several():
        every, named = config.watchdog.hosts_every, config.watchdog.straggler
        found.append(Stragglers(watchdog.calls, every=every, log_every=log_every, named=named))
    found.append(watchdog)
    if config.fault is not None:
        data = getattr(config.data, "path", None)
        site = Site(run_path, jax.process_index(), None if data is None else Path(data).expanduser())
        found.append(config.fault.build(site))
    found += [one for one in more if one is not None]
    return Observers([*found, ledger])
