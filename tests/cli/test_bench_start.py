"""`lmx bench start` on a run that does not start, and its words."""

from __future__ import annotations

import pytest

from lmx.run.bench_config import BenchStart
from lmx.run.bench_start import DidNotStart, bench_start, start_text


def test_a_run_that_does_not_start_is_told_with_its_own_words() -> None:
    config = BenchStart(words=["optimizer.learning_rat=1"], rounds=1, output="text")
    with pytest.raises(DidNotStart, match=r"exit code 2\n[\s\S]*the nearest is optimizer\.learning_rate"):
        bench_start(config)


def test_a_line_a_kind_of_start() -> None:
    found = {"cold": [7.1, 6.5], "warm": [3.2, 3.1], "import_jax": [0.7, 0.7], "help": [0.07, 0.07]}
    lines = start_text(found).splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("  7.10, 6.50 s")
