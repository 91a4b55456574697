"""Goldens and approvals of experiments."""

from __future__ import annotations

import json

import pytest

from lmx.config.errors import RequestError
from lmx.run.approval import approve, require
from lmx.run.goldens import check, write
from lmx.run.sides import composed_side, composer
from tests.support import ROOT


def test_every_experiment_is_as_its_golden():
    found = check(ROOT / "experiments", [])
    assert len(found) >= 2
    assert {one.name: one.lines for one in found if one.lines} == {}, "renew: lmx review --write names=[...]"


def test_what_differs_is_said_and_only_that_is_renewed(tmp_path):
    written = write(tmp_path, ["quickstart", "verify_tiny"])
    assert len(written) == 2
    assert all(not one.lines for one in check(tmp_path, []))
    path = tmp_path / "quickstart" / "plan.json"
    plan = json.loads(path.read_text())
    plan["values"]["trainer.steps"] = 200
    plan["consequences"]["tokens"] = 1
    plan["hash"] = "0"
    path.write_text(json.dumps(plan))
    lines = {one.name: one.lines for one in check(tmp_path, [])}
    assert lines["verify_tiny"] == []
    assert "trainer.steps: 200 -> (default)" in lines["quickstart"]
    assert any(line.startswith("tokens: 1 -> ") for line in lines["quickstart"])
    assert write(tmp_path, []) == [path]
    with pytest.raises(RequestError, match="no such experiment"):
        check(tmp_path, ["quickstrat"])


def tree_of(*words):
    return composed_side(composer(), list(words), "x").tree


def test_only_what_was_approved_may_start(tmp_path):
    tree = tree_of("experiment=quickstart")
    with pytest.raises(RequestError, match="nothing is approved"):
        require(tmp_path, "quickstart", tree, None)
    point = tree_of("experiment=quickstart", "optimizer.learning_rate=0.01")
    approve(tmp_path, "quickstart", tree, [point], topology="v5p:2x2x1", by="A Person")
    assert require(tmp_path, "quickstart", tree, "v5p:2x2x1")["by"] == "A Person"
    assert require(tmp_path, "quickstart", point, None)
    more = tree_of("experiment=quickstart", "optimizer.learning_rate=0.03")
    approve(tmp_path, "quickstart", tree, [point, more], topology="v5p:2x2x1", by="A Person")
    between = tree_of("experiment=quickstart", "optimizer.learning_rate=0.015")
    assert require(tmp_path, "quickstart", between, None)
    words = ["experiment=quickstart", "optimizer.learning_rate=0.04"]
    beyond = tree_of(*words)
    with pytest.raises(
        RequestError, match=r"learning_rate: 0\.02 -> 0\.04 \(approved: 0\.01, 0\.03\)"
    ) as error:
        require(tmp_path, "quickstart", beyond, None, words=words)
    assert "\n  lmx review approve experiment=quickstart optimizer.learning_rate=0.04" in str(error.value)
    assert require(tmp_path, "quickstart", tree_of("experiment=quickstart", "trainer.log_every=1"), None)
    other = tree_of("experiment=quickstart", "trainer.seed=7")
    with pytest.raises(RequestError, match=r"trainer.seed: 0 -> 7"):
        require(tmp_path, "quickstart", other, None)
    with pytest.raises(RequestError, match=r"topology: v5p:2x2x1 -> v5p:2x2x2"):
        require(tmp_path, "quickstart", tree, "v5p:2x2x2")
