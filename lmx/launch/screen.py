"""What the launching terminal shows of process 0: its log as it grows, without what libraries say of their own doings.

The logs themselves keep every line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_NOISE = re.compile(
    r"\[Gloo\] Rank \d+ is connected to \d+ peer ranks"
    r"|I\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\.(cc|h):\d+\] "  # absl's information; its warnings and errors are shown
    r"|[IWE]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ preemption_notifier\.cc:\d+\] SIGTERM caught"  # lmx says it too
    r"|WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
)


def is_noise(line: str) -> bool:
    """Whether a line tells nothing to someone who has started a run: peers that are connected, a signal that came."""
    return _NOISE.match(line) is not None


class Screen:
    """Shows the log of process 0 as it grows, each line once. `show` gets text, which ends with a line's end."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show
        self.shown: dict[Path, int] = {}

    def update(self, path: Path, *, last: bool = False) -> None:
        """The lines that have come since the last time. `last`: one without an end too, for no more comes."""
        if not path.exists():
            return
        start = self.shown.get(path, 0)
        with open(path, "rb") as stream:
            stream.seek(start)
            data = stream.read()
        whole = data if last else data[: data.rfind(b"\n") + 1]
        self.shown[path] = start + len(whole)
        lines = whole.decode(errors="replace").splitlines(keepends=True)
        text = "".join(line for line in lines if not is_noise(line))
        if text:
            self.show(text if text.endswith("\n") else f"{text}\n")
