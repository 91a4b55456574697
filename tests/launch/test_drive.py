"""The driver and the agent with real processes of this machine: restarts, the first error, stopping, another driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lmx.config.errors import RequestError
from lmx.io import journal
from lmx.launch import agent, look
from lmx.launch.drive import drive, driving
from lmx.launch.plan import find, load
from lmx.launch.target import log_file, read
from tests.launch.programs import CHECKPOINT, POLICY, Flaky, launch, until
from tests.support import ROOT


def run(given):
    said, shown = [], []
    ended = drive(given, say=said.append, show=shown.append)
    return ended, "\n".join(said), "".join(shown)


def pid_of(given, task, attempt=0):
    path = given.plan.attempt_folder(attempt) / f"task-{task}.pid"
    return until(lambda: agent.read(str(path)))["pid"]


def members(group):
    """The living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_a_run_that_ends(tmp_path):
    given = launch(tmp_path, 'echo hello >&2; echo result; test -f "$3" || test -f "$5" && exit 0')
    ended, _, shown = run(given)
    assert (ended.exit_code, shown) == (0, "hello\n")
    assert log_file(given.plan, 0, 0, "out").read_text() == "result\n"
    assert run(given)[0].exit_code == 0  # ended is ended
    assert len(read(given.plan)) == 1


def test_frozen_config_reaches_the_process(tmp_path):
    given = launch(tmp_path, 'for w in "$@"; do case $w in */config.yaml) cat $w;; esac; done')
    assert run(given)[0].exit_code == 0
    assert log_file(given.plan, 0, 0, "out").read_text() == "name: x\n"


def test_wrong_request_is_not_tried_again(tmp_path):
    given = launch(tmp_path, "echo 'lmx train: no such data' >&2; exit 2")
    ended, _, _ = run(given)
    assert ended.exit_code == 2
    assert len(read(given.plan)) == 1


def test_failures_go_on_from_the_checkpoint_until_the_budget_is_spent(tmp_path):
    given = launch(
        tmp_path, f'n=$((ATTEMPT + 5)); {CHECKPOINT}; echo "$WORDS" > "$RUN/words-$ATTEMPT"; exit 1'
    )
    ended, said, _ = run(given)
    assert ended.exit_code == 1
    assert "launch.max_failures=2" in ended.message
    words = [(tmp_path / "run" / f"words-{i}").read_text().split() for i in range(3)]
    assert [("--resume" in w) for w in words] == [False, True, True]
    assert "going on from step 6" in said


def test_an_attempt_that_cannot_be_started_is_followed_by_the_next(tmp_path):
    given = launch(tmp_path, f"n=1; {CHECKPOINT}; exit $((ATTEMPT == 0))", kind=Flaky)
    ended, said, _ = run(given)
    assert (ended.exit_code, ended.message) == (0, "done")
    assert "host1: no answer" in said
    assert [attempt.number for attempt in read(given.plan)] == [0, 2]


def test_without_a_checkpoint_the_next_attempt_finds_an_empty_directory(tmp_path):
    given = launch(
        tmp_path,
        'if [ -e "$RUN/config.yaml" ]; then exit 2; fi; touch "$RUN/config.yaml"; exit $((1 - ATTEMPT))',
    )
    assert run(given)[0].exit_code == 0
    assert (tmp_path / "run" / "before-attempt-1" / "config.yaml").exists()


def test_preemptions_with_progress_cost_nothing(tmp_path):
    given = launch(
        tmp_path,
        f"n=$ATTEMPT; {CHECKPOINT}; if [ $ATTEMPT -lt 4 ]; then exit 75; fi",
        policy=POLICY._replace(max_failures=0),
    )
    assert run(given)[0].exit_code == 0
    assert len(read(given.plan)) == 5


def test_the_first_error_is_told_and_the_others_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("lmx.launch.drive.SETTLE", 0.3)
    given = launch(
        tmp_path,
        'if [ $TASK = 2 ]; then echo "lmx train: the disk is full" >&2; exit 1; fi; sleep 300',
        processes=3,
        policy=POLICY._replace(max_failures=0),
    )
    ended, _, _ = run(given)
    assert ended.exit_code == 1
    assert "process 2 on this machine ended with exit code 1" in ended.message
    assert "lmx train: the disk is full" in ended.message
    assert not any(agent.alive(agent.read(str(p))) for p in given.plan.attempt_folder(0).glob("*.pid"))


def test_a_killed_process_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("lmx.launch.drive.SETTLE", 0.3)
    given = launch(tmp_path, "exec sleep 300", processes=2, policy=POLICY._replace(max_failures=0))
    thread = threading.Thread(target=lambda: os.kill(pid_of(given, 1), signal.SIGKILL))
    thread.start()
    ended, _, _ = run(given)
    thread.join()
    assert "process 1 on this machine was killed by signal 9" in ended.message


def test_a_stack_is_not_the_last_word(tmp_path, monkeypatch):
    monkeypatch.setattr("lmx.launch.drive.SETTLE", 0.3)
    fatal = "F1129 09:35:01.5 123 client.h:77] Terminating process: DEADLINE_EXCEEDED: RegisterTask"
    given = launch(
        tmp_path,
        f'if [ $TASK = 1 ]; then echo "{fatal}" >&2; echo "    @ 0x7f52 PyObject_Call" >&2; exit 3; fi; sleep 300',
        processes=2,
        policy=POLICY._replace(max_failures=0),
    )
    ended, _, _ = run(given)
    assert "exit code 3\n    Terminating process: DEADLINE_EXCEEDED: RegisterTask\n" in ended.message


def test_stop_from_elsewhere_ends_those_processes_alone(tmp_path):
    told = '"$RUN/told"'
    waits = f"until [ -s {told} ]; do sleep 0.1; done; sleep 1"
    given = launch(tmp_path, f"n=7; trap 'echo once >> {told}' TERM; {waits}; {CHECKPOINT}; exit 75")
    bystander = subprocess.Popen(["sleep", "300"])
    found = []
    thread = threading.Thread(target=lambda: found.append(run(given)))
    thread.start()
    try:
        until(lambda: look.status(given.plan.folder)["state"] == "running")
        pid = pid_of(given, 0)
        assert look.stop(given.plan.folder, grace=5.0).startswith("stopped as asked")
        thread.join(20)
        assert (tmp_path / "run/told").read_text() == "once\n"  # a second SIGTERM ends a run without saving
        assert found[0][0].exit_code == 75
        assert agent.started(pid) is None
        assert bystander.poll() is None
        assert look.status(given.plan.folder)["state"] == "stopped"
        until(lambda: not members(pid))  # nor is its child alive: the whole group has ended
    finally:
        bystander.kill()
        bystander.wait()


def test_what_ignores_the_signal_is_killed(tmp_path):
    given = launch(
        tmp_path, "trap '' TERM; while true; do sleep 0.1; done", policy=POLICY._replace(grace=0.5)
    )
    attempt = given.target.start(given.plan, 0)
    pid = pid_of(given, 0)
    assert given.target.stop(given.plan, attempt, grace=0.5) == []
    assert agent.started(pid) is None
    assert given.target.poll(given.plan, attempt).tasks[0].exit_code == -9


def test_the_driver_may_be_killed_and_another_goes_on(tmp_path):
    given = launch(tmp_path, "sleep 1.5; exit 0")
    program = "import sys; from lmx.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "launch", "attach", str(tmp_path / "run")]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    pid = pid_of(given, 0)
    first.kill()
    first.wait()
    assert agent.started(pid) is not None
    assert "nobody" in look.as_text(look.status(given.plan.folder)) or agent.started(pid) is None
    ended, _, _ = run(given)
    assert ended.exit_code == 0
    assert [e["event"] for e in journal.read(given.plan.folder)].count("starting") == 1


def test_a_number_given_to_another_process_is_never_signalled(tmp_path):
    given = launch(tmp_path, "exec sleep 300")
    attempt = given.target.start(given.plan, 0)
    path = given.plan.attempt_folder(0) / "task-0.pid"
    identity = agent.read(str(path))
    agent.write(str(path), {**identity, "began": identity["began"] - 1})
    given.target.stop(given.plan, attempt, grace=0.1)
    assert agent.started(identity["pid"]) is not None
    agent.write(str(path), identity)
    given.target.stop(given.plan, attempt, grace=0.1)
    assert agent.started(identity["pid"]) is None


def test_starting_again_starts_nothing(tmp_path):
    given = launch(tmp_path, "exec sleep 300")
    attempt = given.target.start(given.plan, 0)
    pid = pid_of(given, 0)
    given.target.start(given.plan, 0)
    assert pid_of(given, 0) == pid
    given.target.stop(given.plan, attempt, grace=0.0)


def test_two_drivers(tmp_path):
    given = launch(tmp_path, "exit 0")
    with driving(given.plan.folder), pytest.raises(RequestError, match="is driven by process"):
        run(given)


def test_a_name_that_is_not_there(tmp_path):
    launch(tmp_path, "exit 0")
    assert find("run", str(tmp_path)) == tmp_path / "run" / "launch"
    with pytest.raises(RequestError, match="launched runs there: run"):
        find("rum", str(tmp_path))
    with pytest.raises(RequestError, match=r"no launch/plan\.json"):
        load(tmp_path / "launch")


def test_tpu_lock_is_removed_only_when_its_holder_is_dead(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    holder = subprocess.Popen(["sleep", "300"], stdout=open(path, "a"))  # noqa: SIM115
    try:
        with pytest.raises(agent.Refused, match=f"process {holder.pid} \\(sleep\\)"):
            agent.clear_tpu_lock(str(path))
        assert path.exists()
    finally:
        holder.kill()
        holder.wait()
    assert "removed" in agent.clear_tpu_lock(str(path))
    assert not path.exists()
