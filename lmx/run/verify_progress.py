"""How far `lmx verify mesh` is: which rows it will run, which of them are done, and about how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class Progress:
    """Says, of `total` runs, each that has ended."""

    def __init__(
        self, total: int, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ):
        self.total, self.done = total, 0
        self._say, self._clock, self._began = say, clock, clock()

    def ended(self, name: str, seconds: float) -> None:
        """A run that took so long. The rest is taken to need as long as those so far did on average."""
        self.done += 1
        spent, left = self._clock() - self._began, self.total - self.done
        rest = f", about {_duration(left * spent / self.done)} to go" if left else ""
        self._say(
            f"lmx verify mesh: row {self.done} of {self.total}: {name} ({_duration(seconds)}; "
            f"{_duration(spent)} so far{rest})"
        )


def opening(meshes: Sequence[str], variants: Sequence[str], *, steps: int) -> str:
    """What is about to be run, and how to leave a part of it out; the first mesh is run twice."""
    more = "; verify.rows=[] leaves the rows after the meshes out" if variants else ""
    rows = f"{', '.join(meshes)}" + (f"; then {', '.join(variants)}" if variants else "")
    count = len(meshes) + 1 + len(variants)
    return f"lmx verify mesh: {count} rows of {steps} steps, {meshes[0]} twice: {rows}{more}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
