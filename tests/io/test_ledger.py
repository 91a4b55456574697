"""A run's life read from its ledger: which steps count, what was seen, where the time went."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.io.ledger import KINDS, MODULUS, attempts_of, goodput_of, read_ledger, seen_by

DATA = [(7 * n + 1) ** 5 % MODULUS for n in range(200)]
"""What a step's data hash to."""


def lines_of(stretches, *, every=3, hosts=1, part=lambda value: value):
    """The ledger of a run whose attempts do steps (first, last], the steps of a second of training each."""
    lines, now = [], 1000.0
    for number, (first, last, status) in enumerate(stretches):
        lines.append(
            {"event": "start", "attempt": number, "time": now, "step": first, "batch": 4, "hosts": hosts}
            | {"config": "c0ffee", "seed": 1, "devices": "1 x cpu", "mesh": {}}
        )
        now += 5
        seconds = dict.fromkeys(KINDS, 0.0) | {"start": 5.0}
        told = first
        for step in range(first + 1, last + 1):
            now += 1
            seconds = {**seconds, "training": seconds["training"] + 1.0}
            if step % every == 0 or step == last:
                data = sum(part(DATA[n]) for n in range(told + 1, step + 1)) % MODULUS
                lines.append(
                    {"event": "steps", "time": now, "first": told + 1, "last": step}
                    | {"data": f"{data:016x}", "seconds": seconds}
                )
                told = step
        if status:
            lines.append({"event": "end", "time": now, "step": last, "status": status, "seconds": seconds})
        now += 10
    return lines


def write(folder, lines, process=""):
    path = folder / f"ledger{process}.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@st.composite
def lives(draw):
    """Attempts that go on from a step that a line before them tells of, to the end."""
    stretches, at = [], 0
    for _ in range(draw(st.integers(0, 4))):
        last = draw(st.integers(at, min(at + 20, 60)))
        stretches.append((at, last, None))
        at = draw(st.integers(at // 3, last // 3)) * 3
    return [*stretches, (at, 63, "done")]


@given(lives())
def test_what_was_seen_does_not_depend_on_restarts(tmp_path_factory, stretches):
    folder = tmp_path_factory.mktemp("run")
    write(folder, lines_of([(0, 63, "done")]))
    straight = seen_by(folder)
    path = write(folder, lines_of(stretches))
    assert seen_by(folder) == straight
    assert straight is not None
    assert (straight.steps, straight.examples, straight.gaps) == (63, 252, ())
    found = goodput_of(attempts_of(read_ledger(path).objects))
    assert found is not None
    again = sum(max(a[1] - b[0], 0) for a, b in itertools.pairwise(stretches))
    assert (found.lost, found.restarts) == (again, len(stretches) - 1)
    assert found.wall == pytest.approx(sum(found.seconds.values()))
    silent = sum(
        last == first for first, last, _ in stretches
    )  # ended before a line said where their time went
    assert found.seconds["start"] == 5.0 * (len(stretches) - silent)
    assert found.seconds["down"] == 10.0 * (len(stretches) - 1) + 5.0 * silent


def test_one_read_row_more_or_less_is_another_hash(tmp_path):
    write(tmp_path, lines_of([(0, 63, "done")]))
    one = seen_by(tmp_path)
    write(tmp_path, lines_of([(0, 63, "done")], part=lambda value: value + (value == DATA[40])))
    assert one is not None
    assert one.data != seen_by(tmp_path).data


def test_the_parts_of_several_processes_add_up(tmp_path):
    stretches = [(0, 30, None), (21, 63, "done")]
    write(tmp_path, lines_of(stretches))
    straight = seen_by(tmp_path)
    write(tmp_path, lines_of(stretches, hosts=2, part=lambda value: value // 3))
    assert seen_by(tmp_path).data is None
    write(tmp_path, lines_of(stretches, hosts=2, part=lambda value: value - value // 3), ".1")
    assert seen_by(tmp_path) == straight


def test_a_process_that_is_there_no_more_counts_up_to_what_others_did_again(tmp_path):
    """Two processes, killed after step 30, go on as one from step 21."""
    write(tmp_path, lines_of([(0, 63, "done")]))
    straight = seen_by(tmp_path)
    first, alone = (
        lines_of([(0, 30, None)], hosts=2, part=lambda v: v // 3),
        lines_of([(0, 30, None), (21, 63, "done")]),
    )
    write(tmp_path, [*first, *alone[next(i for i, x in enumerate(alone) if x.get("attempt") == 1) :]])
    write(tmp_path, lines_of([(0, 30, None)], hosts=2, part=lambda v: v - v // 3), ".1")
    assert seen_by(tmp_path) == straight


def test_steps_that_no_line_tells_of_are_named(tmp_path):
    lines = [line for line in lines_of([(0, 63, "done")]) if line.get("last") not in (30, 33)]
    write(tmp_path, lines)
    found = seen_by(tmp_path)
    assert found is not None
    assert (found.gaps, found.data) == (((28, 33),), None)


def test_a_line_cut_short_by_a_kill_is_passed_over(tmp_path):
    path = write(tmp_path, lines_of([(0, 30, None)]))
    whole = attempts_of(read_ledger(path).objects)
    with open(path, "a") as stream:
        stream.write('{"event": "steps", "ti')
    assert attempts_of(read_ledger(path).objects) == whole
    assert whole[0].status is None
