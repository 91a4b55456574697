"""What a driver makes of hosts that go and come back, and how a run goes on that another one drives, or nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from lmx.config.errors import RequestError
from lmx.io import journal
from lmx.launch import agent, look
from lmx.launch.drive import drive
from lmx.launch.record import note, reopen
from lmx.launch.target import Plan, Seen, Unreached, read
from tests.launch.programs import CHECKPOINT, POLICY, Stubbed, launch, until
from tests.support import ROOT


class Away(Stubbed):
    """Its host does not answer when attempt 1 is started for the first three times."""

    def start(self, plan: Plan, number: int, *, resume: bool = False):
        tries = plan.folder / "tries"
        if number == 1:
            with open(tries, "a") as stream:
                stream.write("x")
            if tries.stat().st_size <= 3:
                raise Unreached("host1: no route")
        return super().start(plan, number, resume=resume)


class Cut(Stubbed):
    """The host of process 1 falls silent in attempt 0."""

    def poll(self, plan: Plan, attempt, *, logs: bool = True) -> Seen:
        seen = super().poll(plan, attempt, logs=logs)
        if attempt.number or seen.checkpoint is None:
            return seen
        lost = seen.tasks[1]._replace(host="host1", state="lost", exit_code=1, ended=1.0, message="silent")
        return seen._replace(tasks=(seen.tasks[0], lost))


def run(given):
    said, shown = [], []
    ended = drive(given, say=said.append, show=shown.append)
    return ended, "\n".join(said), "".join(shown)


def pid_of(given, task=0, attempt=0):
    path = given.plan.attempt_folder(attempt) / f"task-{task}.pid"
    return until(lambda: agent.read(str(path)))["pid"]


def test_what_lives_of_an_attempt_that_was_lost_is_ended_before_the_next(tmp_path):
    given = launch(
        tmp_path, '[ $ATTEMPT = 0 ] && exec sleep 300; [ -d "/proc/$(cat "$RUN/orphan")" ] && exit 1; exit 0'
    )
    given.target.start(given.plan, 0)
    (tmp_path / "run" / "orphan").write_text(str(pid_of(given)))
    note(given.plan.folder, "prepared")
    note(given.plan.folder, "starting", attempt=0, checkpoint=None)
    note(
        given.plan.folder, "ended", attempt=0, exit_code=1, progressed=False, checkpoint=None, message="lost"
    )
    ended, _, _ = run(given)
    assert ended.exit_code == 0
    assert len(read(given.plan)) == 2


def test_a_checkpoint_that_nobody_saw_is_gone_on_from(tmp_path):
    given = launch(
        tmp_path, f'n=1; {CHECKPOINT}; [ $ATTEMPT = 0 ] && exit 1; [ "${{WORDS%--resume}}" != "$WORDS" ]'
    )
    given.target.start(given.plan, 0)
    until(lambda: not given.target.poll(given.plan, read(given.plan)[0]).running)
    note(given.plan.folder, "prepared")
    note(given.plan.folder, "starting", attempt=0, checkpoint=None)
    note(
        given.plan.folder, "ended", attempt=0, exit_code=1, progressed=False, checkpoint=None, message="lost"
    )
    assert run(given)[0].exit_code == 0


def test_stopping_a_run_that_has_ended_ends_what_still_lives_of_it(tmp_path):
    given = launch(tmp_path, "exec sleep 300")
    given.target.start(given.plan, 0)
    pid = pid_of(given)
    note(
        given.plan.folder, "ended", attempt=0, exit_code=1, progressed=False, checkpoint=None, message="lost"
    )
    note(given.plan.folder, "finished", exit_code=1, message="lost")
    assert look.stop(given.plan.folder, grace=1.0) == "it has ended already"
    assert agent.started(pid) is None


def test_a_directory_in_use_at_a_restart_is_no_wrong_request(tmp_path):
    said = "echo 'lmx train: RUN: this run directory is in use by process 1 on a' >&2; exit 2"
    given = launch(tmp_path, f"case $ATTEMPT in 0) exit 1;; 1) {said};; esac")
    assert run(given)[0].exit_code == 0


def test_a_host_that_is_away_costs_time_and_no_budget(tmp_path):
    policy = POLICY._replace(max_failures=1, host_wait=60.0)
    given = launch(tmp_path, "exit $((1 - ATTEMPT))", policy=policy, kind=Away)
    ended, said, _ = run(given)
    assert ended.exit_code == 0
    assert said.count("host1: no route") == 1
    assert (given.plan.folder / "tries").read_text() == "xxxx"


def test_a_host_that_stays_away_ends_the_run(tmp_path):
    given = launch(tmp_path, "exit 1", policy=POLICY._replace(max_failures=9), kind=Away)
    ended, _, _ = run(given)
    assert ended.exit_code == 1
    assert "host1: no route" in ended.message
    assert "launch.host_wait=null" in ended.message


def test_the_others_are_not_left_waiting_for_a_lost_host(tmp_path, monkeypatch):
    monkeypatch.setattr("lmx.launch.drive.SETTLE", 1e9)
    given = launch(
        tmp_path,
        f"[ $ATTEMPT = 1 ] && exit 0; n=1; {CHECKPOINT}; exec sleep 300",
        processes=2,
        policy=POLICY._replace(max_failures=1),
        kind=Cut,
    )
    ended, said, _ = run(given)
    assert ended.exit_code == 0
    assert "process 1 on host1 is lost (silent); the others are ended" in said
    assert [
        e["message"].split("\n")[0] for e in journal.read(given.plan.folder) if e["event"] == "ended"
    ] == [
        "process 1 on host1 is lost (silent)",
        "",
    ]


def test_a_run_that_was_given_up_or_stopped_goes_on_with_new_budgets(tmp_path):
    given = launch(
        tmp_path,
        f"n=$ATTEMPT; {CHECKPOINT}; case $ATTEMPT in 0) exit 1;; 1) exec sleep 300;; esac; exit 0",
        policy=POLICY._replace(max_failures=0),
    )
    folder = given.plan.folder
    assert "launch.max_failures=0" in run(given)[0].message
    reopen(folder)
    thread = threading.Thread(target=run, args=(given,), daemon=True)
    thread.start()
    pid_of(given, attempt=1)
    look.stop(folder, grace=1.0)
    thread.join(60)
    assert look.status(folder)["state"] in ("stopped", "failed")
    reopen(folder)
    ended, said, _ = run(given)
    assert ended.exit_code == 0
    assert "going on from step 1" in said
    with pytest.raises(RequestError, match="is done"):
        reopen(folder)


def test_attach_follows_a_driver_and_takes_over_when_it_dies(tmp_path):
    given = launch(tmp_path, 'echo one >&2; until [ -e "$RUN/go" ]; do sleep 0.1; done; echo two >&2; exit 0')
    program = "import sys; from lmx.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "launch", "attach", str(tmp_path / "run")]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    said, shown, found = [], [], []
    try:
        pid_of(given)
        follow = lambda: found.append(look.attach(given, say=said.append, show=shown.append))
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        until(lambda: "".join(shown) == "one\n")
        assert f"driven by process {first.pid}" in said[0]
        assert first.poll() is None
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    (tmp_path / "run" / "go").touch()
    thread.join(60)
    assert found[0].exit_code == 0
    assert "".join(shown) == "one\ntwo\n"
    assert [e["event"] for e in journal.read(given.plan.folder)].count("starting") == 1
