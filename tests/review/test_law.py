"""`lmx runs fit`: a law is found again in runs that follow it, and foretells one that does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmx.cli.main import run as lmx
from lmx.config.errors import RequestError
from lmx.io.run_dir import RunDir
from lmx.review.law import Law, Point, budgets, fit

TRUE = Law(e=1.0, a=4.0, b=5.0, alpha=0.5, beta=0.5)


def point(params: float, tokens: float, noise: float = 0.0) -> Point:
    return Point(
        f"{params:g}/{tokens:g}", params, tokens, 6 * params * tokens, TRUE.loss(params, tokens) + noise
    )


def ladder(noise: float = 0.0) -> list[Point]:
    """Five sizes at each of three budgets, around the best one."""
    random, found = np.random.default_rng(0), []
    for flops in (1e11, 1e12, 1e13):
        best = (flops / 6) ** 0.5 * np.exp(TRUE.a - TRUE.b)
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
            params = best * factor
            found.append(point(params, flops / 6 / params, noise * random.standard_normal()))
    return found


def test_a_law_is_found_again():
    found = fit(ladder(), against=[], draws=0, seed=0)
    assert found.law.e == pytest.approx(TRUE.e, abs=0.03)
    assert found.exponent.value == pytest.approx(0.5, abs=0.02)


def test_minima_of_budgets_are_where_they_should_be():
    found = budgets(ladder())
    assert [len(b.points) for b in found] == [5, 5, 5]
    for b in found:
        assert b.inside
        assert b.best == pytest.approx((b.flops / 6) ** 0.5 * np.exp(TRUE.a - TRUE.b), rel=0.05)


def test_budgets_without_a_minimum_say_so():
    rising = [Point(str(n), 10.0**n, 1e6, 1e12, 1.0 + n**2) for n in (1, 2, 3)]
    (found,) = budgets(rising)
    assert not found.inside
    assert budgets(ladder()[:2])[0].best is None


def test_a_further_run_is_foretold_with_an_interval_that_holds_it():
    next_rung = point(3e7, 1e8)
    found = fit([*ladder(noise=0.003), next_rung], against=[next_rung], draws=25, seed=0)
    told = found.predicted[next_rung.path]
    assert told.low < told.high
    assert next_rung.loss == pytest.approx(told.value, rel=0.03)
    assert next_rung.path not in {p.path for p in found.points}


def test_too_few_runs_are_refused():
    with pytest.raises(RequestError, match="6 runs of three sizes"):
        fit(ladder()[:5], against=[], draws=0, seed=0)


def test_the_command_reads_runs_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for n, one in enumerate([*ladder(), point(3e7, 1e8)]):
        run = RunDir.create(Path(f"runs/{n}"))
        run.write_config({"name": "ladder"}, [])
        told = {"params": one.params, "tokens": one.tokens, "flops_per_token": 6 * one.params}
        run.write_summary({"status": "done", "eval_loss": one.loss, **told})
        run.close()
    code = lmx(["runs", "fit", "root=runs", "against=[runs/15]", "draws=3", "to=law.png", "output=json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    found = json.loads(out)
    assert found["against"][0]["predicted"]["value"] == pytest.approx(found["against"][0]["loss"], rel=0.03)
    assert Path("law.png").stat().st_size > 1000
