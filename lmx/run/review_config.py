"""The roots of `lmx review`, `lmx review approve` and `lmx diff`."""

from __future__ import annotations

from typing import Literal

from lmx.config.component import Config, field
from lmx.config.types import Count, Flag, Positive, Text
from lmx.review.gates import Gate
from lmx.review.prices import Prices
from lmx.run.config import TrainConfig

Output = Literal["auto", "markdown", "rich", "html", "json"]


class Looked(Config):
    """Where a review looks for past runs."""

    root: list[Text] = field("folders that are searched for runs", effect="bookkeeping")
    most: Count = field("runs that are read, the newest; 0: none", effect="bookkeeping")
    shown: Positive = field("how many of the most alike are shown", effect="bookkeeping")


class Review(TrainConfig):
    """`lmx review`: all that `lmx train` has, the devices it is meant for, and what it is compared with."""

    topology: Text | None = field(
        "chip and shape of a slice (v5p:4x4x8), or GPUs (h100:64), cpu:8; null: the mesh preset's, else CPU",
        effect="bookkeeping",
    )
    slices: Positive | None = field(
        "how many such slices; null: one, or as many as the preset has", effect="bookkeeping"
    )
    against: Text | None = field(
        "what it is compared with: golden, a run directory, an experiment's name, a git ref (HEAD~3), a YAML file; "
        "null: the command's defaults",
        effect="bookkeeping",
    )
    tier: Literal["fast", "compiled"] = field(
        "fast: from the tree of parameters; compiled: also by the compiler of the topology",
        effect="bookkeeping",
    )
    gates: dict[Text, Gate] = field("what the run is held to", effect="bookkeeping")
    price: Prices | None = field("what chips cost; null: no money", effect="bookkeeping")
    history: Looked = field("past runs", effect="bookkeeping")
    sweep: Text | None = field(
        "overrides of a sweep, as for lmx train -m, to look through before it is run; null: one run",
        effect="bookkeeping",
    )
    check: Flag = field("compare every experiment with its golden, and nothing else", effect="bookkeeping")
    write: Flag = field("write the goldens of the experiments named, or of all", effect="bookkeeping")
    names: list[Text] = field(
        "experiments to check or write; none: all that have a golden", effect="bookkeeping"
    )
    experiments: Text = field("folder of the experiments' goldens", effect="bookkeeping")
    report_cache: Text | None = field("folder of the compiled tier's reports", effect="bookkeeping")
    output: Output = field(  # type: ignore[assignment]
        "form of the result on stdout; auto: rich on a terminal, else markdown", effect="bookkeeping"
    )


class Approve(TrainConfig):
    """`lmx review approve`."""

    topology: Text | None = field("as for lmx review", effect="bookkeeping")
    slices: Positive | None = field("as for lmx review", effect="bookkeeping")
    sweep: Text | None = field(
        "overrides of a sweep: every point of it is approved with it; null: the run alone",
        effect="bookkeeping",
    )
    experiments: Text = field("folder that holds a folder an experiment", effect="bookkeeping")
    by: Text | None = field("who approves; null: git's user.name and user.email", effect="bookkeeping")


class Diff(Config):
    """`lmx diff A B`."""

    old: Text = field(
        "an experiment, a run directory, a git ref, a YAML file",
        effect="bookkeeping",
        example="HEAD~1:quickstart",
    )
    new: Text = field("another one", effect="bookkeeping", example="quickstart")
    topology: Text | None = field("as for lmx review", effect="bookkeeping")
    slices: Positive | None = field("as for lmx review", effect="bookkeeping")
    price: Prices | None = field("what chips cost; null: no money", effect="bookkeeping")
    history: Looked = field("past runs", effect="bookkeeping")
    output: Output = field(
        "form of the result on stdout; auto: rich on a terminal, else markdown", effect="bookkeeping"
    )
