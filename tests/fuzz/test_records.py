"""What runs, sweeps and launches keep of themselves, damaged: manifests, ledgers, metrics, provenance, journals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.config.errors import RequestError
from lmx.io.curve import read_curve
from lmx.io.fork_origin import FORK, Fork, read_fork, write_fork
from lmx.io.manifest import NAME, Leaf, Manifest, _digest, damages, read_manifest, write_manifest
from lmx.io.stored import Stored
from lmx.launch.record import events, last_word, results
from lmx.review import life, runs
from lmx.sweep.events import read_events, states
from tests.fuzz.support import answer, cases, damaged, damaged_bytes, documents_or_bytes

LEDGER = [
    {"event": "start", "time": 100.0, "attempt": 0, "step": 0, "total": 9, "batch": 4, "config": "c0ffee"}
    | {"seed": 1, "devices": "2 x cpu", "mesh": {"fsdp": 2}, "hosts": 1},
    {"event": "steps", "time": 101.0, "first": 1, "last": 5, "data": "00000000000000aa", "loss": 1.5}
    | {"grad_norm": 1.0, "seconds": {"start": 0.5, "training": 0.5}},
    {"event": "saved", "time": 101.5, "step": 5},
    {
        "event": "end",
        "time": 102.0,
        "step": 5,
        "status": "stopped",
        "seconds": {"start": 0.5, "training": 1.0},
    },
]
LEDGER += [{**LEDGER[0], "time": 200.0, "attempt": 1, "step": 5}]
METRICS = [{"step": n, "tokens": 8 * n, "loss": 2.0 / n, "eval/loss": 2.0, "step_time": 0.1} for n in (1, 2)]
SUMMARY = {"status": "done", "name": "a", "steps": 9, "loss": 1.0, "eval_loss": 1.1, "tokens_per_second": 5.0}
START = {"code": {"lmx": {"commit": "ab" * 20, "dirty": True}}, "seed": 1, "devices": ["cpu"], "hosts": 1}
FORKED = Fork("/runs/a", 5, "c0ffee", {"model.n_layers": (2, 3)})
SWEEP = [
    {"job": 0, "status": "LEASED", "attempt": 1, "pod": "a", "time": 100.0},
    {"job": 0, "status": "PREEMPTED", "attempt": 1, "pod": "a", "exit_code": 75, "step": 4, "time": 101.0},
    {"job": 1, "status": "DONE", "attempt": 1, "exit_code": 0, "reason": "x", "counts": False, "time": 102.0},
]
LAUNCH = [
    {"event": "prepared", "time": 1.0},
    {"event": "starting", "attempt": 0, "checkpoint": None, "time": 1.0},
    {"event": "ended", "attempt": 0, "exit_code": 75, "progressed": True, "checkpoint": 4, "message": "x"},
    {"event": "reopened", "time": 2.0},
    {"event": "finished", "exit_code": 0, "message": "done"},
]


@st.composite
def journals(draw, records):
    """Lines of which some objects are damaged, or the bytes."""
    told = [draw(damaged(record)) if draw(st.booleans()) else record for record in records]
    raw = "".join(f"{json.dumps(record)}\n" for record in told).encode()
    return draw(st.just(raw) | damaged_bytes(raw))


def lines(records):
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()


def tell(folder):
    """All that `lmx runs` says of a run."""
    assert life.text(life.of(folder))
    json.dumps(life.as_json(life.of(folder)))
    runs.describe(folder)
    runs.compare([folder, folder])
    read_curve(folder, axis="time")


FILES = {
    "ledger.jsonl": LEDGER,
    "metrics.jsonl": METRICS,
    "summary.json": SUMMARY,
    "provenance.json": {"starts": [START, START]},
    "config.yaml": {"name": "a", "trainer": {"steps": 9}},
    "overrides.yaml": ["trainer.steps=9"],
    FORK: {**FORKED._asdict(), "changes": {"model.n_layers": {"old": 2, "new": 3}}},
}


@pytest.mark.parametrize("name", FILES)
def test_a_run_with_a_damaged_record(name, tmp_path):
    for other, content in FILES.items():
        (tmp_path / other).write_bytes(
            lines(content) if other.endswith("l") and other[-5:] == "jsonl" else json.dumps(content).encode()
        )
    tell(tmp_path)
    listed = name.endswith(".jsonl")

    @given(st.data())
    @cases(0.4)
    def check(data):
        made = journals(FILES[name]) if listed else documents_or_bytes(FILES[name])
        (tmp_path / name).write_bytes(data.draw(made))
        answer(lambda: tell(tmp_path))

    check()


@given(data=st.data())
@cases()
def test_a_damaged_journal_of_a_sweep(data, tmp_path):
    (tmp_path / "events.jsonl").write_bytes(data.draw(journals(SWEEP)))
    answer(lambda: states(range(2), read_events(tmp_path)))


@given(data=st.data())
@cases()
def test_a_damaged_journal_of_a_launch(data, tmp_path):
    (tmp_path / "events.jsonl").write_bytes(data.draw(journals(LAUNCH)))
    answer(lambda: (events(tmp_path), results(tmp_path), last_word(tmp_path)))


def test_a_fork_is_read_back(tmp_path):
    write_fork(tmp_path / FORK, FORKED)
    assert read_fork(tmp_path) == FORKED


# ---- manifests


def checkpoint(folder):
    """The folder of a step with a file and its manifest, as the JSON that it is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a").write_bytes(b"data")
    entry = (4, "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7")
    write_manifest(
        folder,
        Manifest(
            5, {"seed": 1}, {"loss": 1.0}, {"w": Leaf((2, 3), "float32")}, {"a": entry}, ("loss", "lowest")
        ),
    )
    return json.loads((folder / NAME).read_text())


def look(folder):
    found = read_manifest(folder)
    if isinstance(found, Manifest):
        damages(folder, found, contents=True)
        assert all(str(leaf) for leaf in found.leaves.values())
    Stored(folder.parent).steps()
    return found


@given(data=st.data(), sealed=st.booleans())
@cases()
def test_a_damaged_manifest(data, sealed, tmp_path):
    """`sealed`: by one who knows how the digest is made."""
    whole = checkpoint(tmp_path / "5")
    assert isinstance(look(tmp_path / "5"), Manifest)
    content = data.draw(damaged({k: v for k, v in whole.items() if k != "digest"}))
    if sealed and isinstance(content, dict):
        try:
            content = {"digest": _digest(content), **content}
        except ValueError:
            return
    raw = json.dumps(content).encode()
    (tmp_path / "5" / NAME).write_bytes(raw if sealed else data.draw(damaged_bytes(raw)))
    answer(lambda: look(tmp_path / "5"))


@pytest.mark.parametrize("name", ["../b", "/etc/passwd", "x/../../b", "", "a\0"])
def test_a_manifest_names_no_file_elsewhere(name, tmp_path):
    content = checkpoint(tmp_path / "5")
    del content["digest"]
    content["files"] = {name: content["files"]["a"]}
    (tmp_path / "5" / NAME).write_text(json.dumps({"digest": _digest(content), **content}))
    assert "`files` cannot be" in str(read_manifest(tmp_path / "5"))


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(lines([*SWEEP[:1], {"job": "0", "status": "DONE"}]))
    with pytest.raises(RequestError, match=r'events\.jsonl:2: `job` cannot be "0"'):
        read_events(tmp_path)
