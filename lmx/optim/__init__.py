"""Update rules and schedules of the learning rate."""

from lmx.optim.config import (
    SGD,
    Adafactor,
    AdamW,
    AdEMAMix,
    Group,
    Lamb,
    Lion,
    Muon,
    Optimizer,
    Prodigy,
    ScheduleFreeAdamW,
)
from lmx.optim.schedule_config import Constant, Cosine, InverseSqrt, Linear, Schedule, WarmupStableDecay

__all__ = [
    "SGD",
    "AdEMAMix",
    "Adafactor",
    "AdamW",
    "Constant",
    "Cosine",
    "Group",
    "InverseSqrt",
    "Lamb",
    "Linear",
    "Lion",
    "Muon",
    "Optimizer",
    "Prodigy",
    "Schedule",
    "ScheduleFreeAdamW",
    "WarmupStableDecay",
]
