"""What launches, sweeps and reviews were told to do, damaged: plan.json, sweep.json, goldens, approvals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.config.errors import RequestError
from lmx.launch.plan import Policy, load
from lmx.run.approval import APPROVED, approve, require
from lmx.run.goldens import PLAN, check
from lmx.sweep.plan import Job, Plan, read_plan, write_plan
from tests.fuzz.support import answer, cases, documents_or_bytes

LAUNCH = {
    "run": "a",
    "run_dir": "runs/a",
    "environment": {"X": "1"},
    "code": {"hash": "c0ffee", "commit": None, "dirty": False, "has_lmx": True},
    "config_hash": "abc",
    "target": {
        "_target_": "lmx.launch.config.Local",
        "processes": 2,
        "devices": 1,
        "env": {},
    },
    "policy": Policy(3, None, 60.0, 0.5, 1.0)._asdict(),
    "command": ["lmx"],
    "directory": "/",
    "machine": "m",
    "time": 1.0,
}
JOB = Job(0, ["trainer.seed=1"], "abc", {"name": "a", "trainer": {"seed": 1}})
SWEEP = Plan(
    "a",
    ["lmx"],
    ["python"],
    {"hash": "x"},
    {"pool": {}},
    ["trainer.seed"],
    [JOB, JOB._replace(number=1)],
    [1, 0],
)


@given(data=st.data())
@cases()
def test_a_damaged_plan_of_a_launch(data, tmp_path):
    folder = tmp_path / "launch"
    folder.mkdir(exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(LAUNCH))
    assert load(folder).plan.run == "a"
    (folder / "plan.json").write_bytes(data.draw(documents_or_bytes(LAUNCH)))
    answer(lambda: load(folder))


@given(data=st.data())
@cases()
def test_a_damaged_plan_of_a_sweep(data, tmp_path):
    path = tmp_path / "sweep.json"
    path.unlink(missing_ok=True)
    write_plan(tmp_path, SWEEP)
    assert read_plan(tmp_path) == SWEEP
    path.write_bytes(data.draw(documents_or_bytes(json.loads(path.read_text()))))
    answer(lambda: read_plan(tmp_path))


def test_a_damaged_golden(tmp_path):
    folder = tmp_path / "quickstart"
    folder.mkdir()
    golden = {"experiment": "quickstart", "topology": "cpu:1", "values": {"name": "quickstart"}, "absent": []}
    golden |= {"consequences": {"params_total": 1}, "hash": "x"}

    @given(documents_or_bytes(golden))
    @cases(0.05)  # composes the experiment each time
    def damage(raw):
        (folder / PLAN).write_bytes(raw)
        answer(lambda: check(tmp_path, ["quickstart"]))

    damage()


def test_a_damaged_approval(tmp_path):
    tree = {"name": "quickstart", "trainer": {"steps": 9}}
    approve(tmp_path, "quickstart", tree, [tree], topology="cpu:1", by="me")
    path = tmp_path / "quickstart" / APPROVED
    entries = json.loads(path.read_text())

    @given(documents_or_bytes(entries))
    @cases()
    def damage(raw):
        path.write_bytes(raw)
        answer(lambda: require(tmp_path, "quickstart", {**tree, "trainer": {"steps": 10}}, "cpu:1"))

    damage()
    path.write_text("[{}]")
    with pytest.raises(RequestError, match="no `by`"):  # and is not written over
        approve(tmp_path, "quickstart", tree, [], topology="cpu:1", by="me")
