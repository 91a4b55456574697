"""`lmx runs`: its keys."""

from __future__ import annotations

import shlex
from typing import Any, Literal

from lmx.config.component import Config, field
from lmx.config.types import Count, PositiveReal, Text


class Runs(Config):
    """Which runs, and what to do with them. A run is named by its path, or by its folder's name under `root`."""

    root: list[Text] | Text = field("folders that are searched for runs", effect="bookkeeping")
    match: Text | None = field("only runs whose name or path is like this pattern", effect="bookkeeping")
    sort: Literal["age", "name", "loss", "eval_loss", "tokens_per_second"] = field(
        "order of the list, the newest or best first", effect="bookkeeping"
    )
    compare: list[Text] | Text | None = field(
        "runs, or a pattern: show what differs in config and in result", effect="bookkeeping"
    )
    plot: list[Text] | Text | None = field(
        "runs, or a pattern: draw their losses into one picture", effect="bookkeeping"
    )
    to: Text = field("the picture", effect="bookkeeping")
    x: Literal["steps", "tokens", "time"] = field(
        "what the picture's losses are drawn over", effect="bookkeeping"
    )
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix that can be pasted)."""
        found: list[tuple[str, str, str]] = []
        if self.compare is not None and self.plot is not None:
            found.append(
                ("plot", "compare and plot are two requests; make them one after the other", "plot=null")
            )
        named = as_list(self.compare or [])
        if (
            self.compare is not None
            and len(named) < 2
            and not any(c in name for name in named for c in "*?[")
        ):
            fix = shlex.quote(f"compare=[{','.join([*(named or ['RUN']), 'OTHER_RUN'])}]")
            found.append(("compare", f"needs two runs or more (or a pattern), got {len(named)}", fix))
        if isinstance(self.plot, list) and not self.plot:
            found.append(("plot", "needs a run or more, got none", "plot=[A]"))
        return found


def as_list(value: Any) -> list[str]:
    """One text or a list of them as a list."""
    return [value] if isinstance(value, str) else list(value)


class RunsShow(Config):
    """The run whose life is shown."""

    run: Text = field("a run's folder, or its name under root", effect="bookkeeping", example="runs/RUN")
    root: list[Text] | Text = field("folders that are searched for runs", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")


class RunsLeaderboard(Config):
    """Of which experiment, and to which loss."""

    name: Text = field("of an experiment, which its runs have", effect="bookkeeping", example="speedrun")
    loss: PositiveReal = field("evaluation loss to reach", unit="nats a token", effect="bookkeeping")
    root: list[Text] | Text = field("folders that are searched for runs", effect="bookkeeping")
    to: Text | None = field(
        "the leaderboard's file; null: leaderboard.json in the experiment's folder", effect="bookkeeping"
    )
    experiments: Text = field("the folder of experiments", effect="bookkeeping")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")


class RunsFit(Config):
    """To which runs a law is fitted, and what it is to foretell."""

    root: list[Text] | Text = field("folders whose runs it is fitted to", effect="bookkeeping")
    against: list[Text] | Text = field(
        "runs that it is to foretell, left out of the fit", effect="bookkeeping"
    )
    draws: Count = field("fits to redrawn runs, for the intervals", effect="bookkeeping")
    seed: Count = field("of the draws", effect="bookkeeping")
    to: Text | None = field("the picture; null: none", effect="bookkeeping", example="isoflop.png")
    output: Literal["text", "json"] = field("form of the result on stdout", effect="bookkeeping")
