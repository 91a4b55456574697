"""Target `ssh` against real sshds on ports of this machine, started by this user."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from lmx.config.errors import RequestError
from lmx.launch import Ssh, agent, look, versions
from lmx.launch.code import snapshot
from lmx.launch.drive import drive
from lmx.launch.look import as_text
from lmx.launch.plan import Plan, freeze, load, load_target
from lmx.launch.ssh import coordinator_of, differences, hosts_of, names_of
from tests.launch.programs import CHECKPOINT, POLICY, stub, until
from tests.support import read_option

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
needs_sshd = pytest.mark.skipif(
    not (os.path.exists(SSHD) and shutil.which("ssh") and shutil.which("ssh-keygen")),
    reason="needs an OpenSSH server and client (apt install openssh-server)",
)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def hosts(tmp_path):
    """Two sshds, as (`host:port` of each, words for ssh, their processes)."""
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
    (keys / "authorized_keys").write_text((keys / "user.pub").read_text())
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    servers, names = [], []
    for i in range(2):
        port = free_port()
        config = tmp_path / f"sshd-{i}.conf"
        config.write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys}/host\nPidFile {tmp_path}/sshd-{i}.pid\n"
            f"AuthorizedKeysFile {keys}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "PermitRootLogin prohibit-password\nMaxStartups 100\n"
        )
        servers.append(
            subprocess.Popen([SSHD, "-D", "-f", str(config), "-E", str(tmp_path / f"sshd-{i}.log")])
        )
        names.append(f"{getpass.getuser()}@127.0.0.1:{port}")
    options = [
        "-i",
        str(keys / "user"),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]
    sockets = tempfile.mkdtemp(prefix="lmx-")  # a short path: sockets have no long names
    options += ["-o", "LogLevel=ERROR", "-o", f"ControlPath={sockets}/%C"]
    for name in names:
        port = int(name.rpartition(":")[2])
        until(lambda port=port: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
    yield names, options, servers
    for name in names:
        address, _, port = name.rpartition(":")
        words = ["ssh", *options, "-O", "exit", "-p", port, address]
        subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    for server in servers:
        server.terminate()
        server.wait()
    shutil.rmtree(sockets)


def tree_of(servers, tmp_path, program, **changes):
    names, options, _ = servers
    work = tmp_path / "work"
    return read_option("target", "ssh") | {
        "hosts": names,
        "options": options,
        "python": stub(tmp_path, program),
        "workdir": str(work),
        "code": "installed",
        **changes,
    }


def launched(tmp_path, tree, policy=POLICY):
    run_dir = tmp_path / "run"
    freeze(
        {"name": "x"}, folder=run_dir / "launch", run_dir=run_dir, target=tree, policy=policy, environment={}
    )
    return load(run_dir / "launch")


@needs_sshd
def test_two_hosts_from_the_command_to_the_result(hosts, tmp_path):
    tree = tree_of(
        hosts,
        tmp_path,
        'echo "log of $TASK" >&2; echo "{}" > "$RUN/summary.json"; echo $JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES',
        setup="echo made; touch here",
    )
    given = launched(tmp_path, tree)
    given.target.check(given.plan)
    shown = []
    began = time.monotonic()
    ended = drive(given, say=lambda _: None, show=shown.append)
    assert ended.exit_code == 0, ended
    assert "".join(shown) == "log of 0\n"
    folder = given.plan.attempt_folder(0)
    assert (folder / "task-1.log").read_text() == "log of 1\n"
    addresses = {(folder / f"task-{i}.out").read_text() for i in range(2)}
    assert len(addresses) == 1
    assert addresses.pop().endswith(" 2\n")
    assert (tmp_path / "work" / "here").exists()
    assert (tmp_path / "run" / "summary.json").read_text() == "{}\n"
    status = as_text(look.status(given.plan.folder))
    assert f"checkpoints on {hosts[0][0]}: {tmp_path}/work/runs/run" in status
    assert [p.read_text() for p in (tmp_path / "work" / "setup").glob("*.log")] == ["made\n"] * 2
    assert time.monotonic() - began < 120


@needs_sshd
def test_processes_live_on_without_the_driver_and_are_stopped_by_another(hosts, tmp_path):
    given = launched(
        tmp_path, tree_of(hosts, tmp_path, f"n=3; trap '{CHECKPOINT}; exit 75' TERM; sleep 300 & wait")
    )
    attempt = given.target.start(given.plan, 0)
    again = load(given.plan.folder)
    until(lambda: all(t.state == "running" for t in again.target.poll(again.plan, attempt).tasks))
    pids = [agent.read(f"{folder}/task-{i}.pid")["pid"] for i, folder in enumerate(attempt.handle["folders"])]
    assert again.target.stop(again.plan, attempt, grace=10.0) == []
    seen = again.target.poll(again.plan, attempt)
    assert (seen.exit_code, seen.checkpoint) == (75, 3)
    assert [agent.started(pid) for pid in pids] == [None, None]


@needs_sshd
def test_a_host_that_is_gone_is_named_and_the_rest_ended(hosts, tmp_path):
    names, _, servers = hosts
    tree = tree_of(hosts, tmp_path, "exec sleep 300", lost_after="4s", connect_timeout="2s")
    given = launched(tmp_path, tree, POLICY._replace(max_failures=0))

    def cut():
        folder = tmp_path / "work" / "launches" / "run" / "0" / "host-1"
        until(lambda: agent.read(str(folder / "task-1.pid")))
        time.sleep(1)
        for child in Path(f"/proc/{servers[1].pid}/task/{servers[1].pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        servers[1].kill()

    thread = threading.Thread(target=cut)
    thread.start()
    began = time.monotonic()
    ended = drive(given, say=lambda _: None, show=lambda _: None)
    thread.join()
    assert ended.exit_code == 1
    assert names[1] in ended.message
    assert "has not answered for" in ended.message
    assert time.monotonic() - began < 60 + 30  # with the start, on a busy machine
    pids = [agent.read(f"{tmp_path}/work/launches/run/0/host-{i}/task-{i}.pid") for i in range(2)]
    assert not agent.alive(pids[0])
    os.kill(pids[1]["pid"], signal.SIGKILL)  # nobody could reach it


@needs_sshd
def test_everything_wrong_with_hosts_is_told_at_once(hosts, tmp_path):
    names, _, _ = hosts
    nobody = f"127.0.0.1:{free_port()}"
    tree = tree_of(hosts, tmp_path, "true", hosts=[names[0], nobody], python="/nowhere/python")
    given = launched(tmp_path, tree)
    with pytest.raises(RequestError) as error:
        given.target.check(given.plan)
    text = str(error.value)
    assert f"{nobody}: " in text
    assert "Connection refused" in text
    assert f"{names[0]}: there is no /nowhere/python" in text
    assert "set target.python" in text
    assert not (tmp_path / "work").exists()


def answer(python="3.11.7", lmx="0.1.0", jax="0.10.2", **more):
    rest = dict.fromkeys(
        ("jaxlib", "numpy", "optax", "hydra-core", "pydantic", "orbax-checkpoint", "grain"), "1"
    )
    own = {"code": False, "folder": False, "unwritable": None, "lmx_files": "1"}
    given = {key: more.pop(key) for key in own if key in more}
    return {"python": python, "packages": {"lmx": lmx, "jax": jax, **rest, **more}, **own, **given}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"python": "3.9.2"}, "b: python3 is Python 3.9.2; lmx needs 3.11"),
        ({"python": "3.12.1"}, "b: Python 3.12.1, but a has 3.11.7"),
        ({"jax": "0.9.0"}, "b: jax 0.9.0, but a has 0.10.2"),
        ({"jax": None}, "b: python3 has no jax; install them there"),
        ({"lmx": "0.0.9"}, "b: lmx 0.0.9, but"),
        ({"lmx": None}, "b: python3 has no lmx"),
        ({"lmx_files": "2"}, "b: its lmx has other files than that of a; install the same"),
        ({"unwritable": "Read-only file system"}, "b: ~/lmx: Read-only file system; set target.workdir"),
    ],
)
def test_hosts_that_differ(changes, words):
    from importlib import metadata

    target = load_target(read_option("target", "ssh") | {"hosts": ["a", "b"], "code": "installed"})
    first = answer(lmx=metadata.version("lmx"))
    second = answer(**({"lmx": metadata.version("lmx")} | changes))
    found = differences(target, [("a", first), ("b", second)], sends_lmx=False)
    assert len(found) == 1
    assert found[0].startswith(words)


@needs_sshd
def test_a_name_of_the_first_host_that_another_does_not_know_is_told_before_anything_starts(hosts, tmp_path):
    tree = tree_of(hosts, tmp_path, "true", python=sys.executable, coordinator="alias-of-mine")
    given = launched(tmp_path, tree)
    with pytest.raises(RequestError, match=r"it knows no alias-of-mine.*\n.*set target.coordinator") as error:
        given.target.check(given.plan)
    assert str(error.value).count("it knows no alias-of-mine") == 2
    known = launched(tmp_path / "known", tree | {"coordinator": "localhost"})
    known.target.check(known.plan)


@needs_sshd
def test_a_folder_of_code_and_a_working_directory_are_looked_for_before_anything_starts(hosts, tmp_path):
    (tmp_path / "empty").mkdir()
    for changes, words in (
        ({"code": "/nowhere/code"}, "target.code=/nowhere/code: there is no such folder"),
        ({"workdir": "/dev/null/work"}, "/dev/null/work: Not a directory; set target.workdir"),
        ({"code": str(tmp_path / "empty")}, None),  # of one's own; lmx is installed
        ({"workdir": str(tmp_path / "new/er")}, None),
    ):
        run = tmp_path / "run"
        tree = tree_of(hosts, tmp_path, "exit 0", **changes)
        given = launched(tmp_path, tree)
        if words is None:
            given.target.check(given.plan)
        else:
            with pytest.raises(RequestError) as error:
                given.target.check(given.plan)
            assert str(error.value).startswith("nothing was started: 2 problems with the hosts\n")
            assert str(error.value).count(words) == 2
        shutil.rmtree(run)
    assert not (tmp_path / "new").exists()


def test_the_lmx_of_a_folder_is_told_by_what_is_in_it(tmp_path):
    hashes = []
    for text in ("", "", "x = 1\n"):
        (tmp_path / "lmx/inner").mkdir(parents=True, exist_ok=True)
        (tmp_path / "lmx/__init__.py").touch()
        (tmp_path / "lmx/inner/a.py").write_text(text)
        hashes.append(agent.probe(sys.executable, code=str(tmp_path), packages=["lmx"])["lmx_files"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_host_that_has_changed_since_the_run_began_is_named_with_both_versions(tmp_path):
    before, after = (
        [("a", answer()), ("b", answer())],
        [("a", answer()), ("b", answer(jax="0.10.3", lmx="2"))],
    )
    assert versions.changed(tmp_path, after, lmx=True) == []  # nothing is known yet
    versions.keep(tmp_path, before)
    assert versions.changed(tmp_path, before, lmx=True) == []
    (line,) = versions.changed(tmp_path, after, lmx=False)
    assert line.startswith("b: jax 0.10.3, but 0.10.2 when the run began; install what was there")
    assert "lmx 2, but 0.1.0 when" in versions.changed(tmp_path, after, lmx=True)[0]
    edited = [("a", answer()), ("b", answer(lmx_files="2"))]
    assert "b: files of lmx 2, but 1 when" in versions.changed(tmp_path, edited, lmx=True)[0]
    assert versions.changed(tmp_path, edited, lmx=False) == []
    versions.keep(tmp_path, after)  # what it began with stays
    assert versions.changed(tmp_path, after, lmx=False) == [line]
    versions.forget(tmp_path)
    assert versions.changed(tmp_path, after, lmx=False) == []


def test_a_name_that_leads_to_the_host_itself_is_no_address_for_others():
    target = load_target(read_option("target", "ssh") | {"hosts": ["u@a", "b"], "code": "installed"})
    assert coordinator_of(target, {"address": "10.0.0.1"}) == "10.0.0.1"
    assert coordinator_of(target, {"address": "fd00::1"}) == "[fd00::1]"
    assert coordinator_of(target, {"address": "127.0.0.1"}) == coordinator_of(target) == "a"
    found = [(n, answer() | {"name": n, "own": "127.0.1.1", "address": "10.0.0.1"}) for n in "ab"]
    assert differences(target, found, sends_lmx=True) == []
    wrong = differences(target.model_copy(update={"devices": 1}), found, sends_lmx=True)
    assert wrong[0].endswith("in its /etc/hosts: 10.0.0.1 a")


def test_hosts_of_a_file(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# ours\nuser@b:2222\n\nc  # the slow one\n")
    target = load_target(read_option("target", "ssh") | {"hosts": ["a"], "hosts_file": str(path)})
    assert isinstance(target, Ssh)
    assert names_of(target) == ["a", "user@b:2222", "c"]
    words = [host.way for host in hosts_of(target)]
    assert words[1][-3:] == ("-p", "2222", "user@b")
    for wrong, message in (
        ({"hosts": None}, "there is no host"),
        ({"hosts": ["a", "a"]}, "twice"),
        ({"hosts_file": "no"}, "no such file"),
    ):
        with pytest.raises(RequestError, match=message):
            names_of(load_target(read_option("target", "ssh") | wrong))


def test_dry_run_says_what_would_be_asked(tmp_path):
    target = load_target(read_option("target", "ssh") | {"hosts": ["a", "b"], "setup": "pip install x"})
    steps = target.steps(Plan("r", tmp_path, "runs/r", {}, "abc"))
    assert [step.where for step in steps] == ["a", "a", "b", "b", "a", "b"]
    assert all(step.argv[0] == "ssh" for step in steps)
    assert "~/lmx/code/abc" in steps[0].input
    assert "pip install x" in steps[1].input
    assert '"JAX_PROCESS_ID": "1"' in steps[5].input


def test_snapshot_holds_what_is_not_committed(tmp_path):
    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    git("init", "-q")
    (tmp_path / ".gitignore").write_text("*.tar\nout/\n")
    (tmp_path / "a").write_text("old")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = snapshot(tmp_path, tmp_path / "0.tar")
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("untracked")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "c").write_text("ignored")
    taken = snapshot(tmp_path, tmp_path / "1.tar")
    status = subprocess.run(
        ["git", "status", "--short"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert status == " M a\n?? b\n"
    assert (clean.diff, clean.has_lmx) == ("", False)
    assert taken.commit == clean.commit
    assert taken.hash != clean.hash
    assert "+new" in taken.diff
    assert agent.unpack(str(tmp_path / "there"), (tmp_path / "1.tar").read_bytes()) == {"already": False}
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == [".gitignore", "a", "b"]
    assert (tmp_path / "there" / "a").read_text() == "new"
    assert agent.unpack(str(tmp_path / "there"), b"") == {"already": True}


def test_no_checkout_no_snapshot(tmp_path):
    with pytest.raises(RequestError, match=r"target\.code=installed"):
        snapshot(tmp_path, tmp_path / "x.tar")


def test_setup_runs_once_and_its_failure_is_told(tmp_path):
    folder = str(tmp_path / "setup")
    assert agent.setup("echo x >> made", folder, "m", str(tmp_path))["already"] is False
    assert agent.setup("echo x >> made", folder, "m", str(tmp_path))["already"] is True
    assert (tmp_path / "made").read_text() == "x\n"
    for _ in range(2):
        with pytest.raises(agent.Refused, match=r"code 3.*no space"):
            agent.setup("echo no space; exit 3", folder, "n", str(tmp_path))
