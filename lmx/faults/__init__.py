"""Faults staged on purpose: what a run is said to survive, done to it."""

from lmx.faults.config import (
    BadShard,
    BitFlip,
    ClockSkew,
    DiskFull,
    Fault,
    HangHost,
    KillDuringSave,
    KillHost,
    LossSpike,
    Nan,
    ReadOnlyDisk,
    Sigterm,
    SlowHost,
    SlowStorage,
    TornCheckpoint,
)

__all__ = [
    "BadShard",
    "BitFlip",
    "ClockSkew",
    "DiskFull",
    "Fault",
    "HangHost",
    "KillDuringSave",
    "KillHost",
    "LossSpike",
    "Nan",
    "ReadOnlyDisk",
    "Sigterm",
    "SlowHost",
    "SlowStorage",
    "TornCheckpoint",
]
