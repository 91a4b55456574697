"""Where a run comes from: commit, uncommitted changes, versions; also without git."""

from __future__ import annotations

import json
import subprocess

import pytest

from lmx.io import provenance
from lmx.io.run_dir import RunDir


def git(folder, *words: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.txt").write_text("one\n")
    git(folder, "add", "a.txt")
    git(folder, "commit", "-q", "-m", "first", "--no-verify")
    return folder


def test_a_clean_checkout_is_its_commit(checkout):
    state, diff = provenance.git_state(str(checkout))
    assert state["commit"] == git(checkout, "rev-parse", "HEAD")
    assert state["dirty"] is False
    assert diff == ""


def test_changes_and_new_files_make_it_dirty_and_the_diff_restores_them(checkout):
    (checkout / "a.txt").write_text("two\n")
    (checkout / "b.txt").touch()
    state, diff = provenance.git_state(str(checkout))
    assert state["dirty"] is True
    assert state["untracked"] == ["b.txt"]
    assert "-one\n+two\n" in diff


def test_without_git_or_a_checkout_there_are_nulls(tmp_path, monkeypatch, checkout):
    assert provenance.git_state(None) == ({"commit": None, "dirty": None}, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(str(checkout)) == ({"commit": None, "dirty": None}, "")


def test_each_start_adds_an_entry_and_its_diff(tmp_path, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    (checkout / "a.txt").write_text("two\n")
    run = RunDir.create(tmp_path / "run")
    for seed in (3, 4):
        run.write_provenance(config_hash="abc", seed=seed, devices=["cpu:0"], hosts=1)
        run.close()  # waits for what is written in the background
    starts = json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"]
    assert [entry["seed"] for entry in starts] == [3, 4]
    here = starts[1]["code"]["here"]
    assert here["commit"] == git(checkout, "rev-parse", "HEAD")
    assert "+two" in (tmp_path / "run" / here["diff"]).read_text()
    assert {"jax", "numpy"} <= set(starts[0]["packages"])
    assert starts[0]["command"]


def test_other_versions_than_at_the_last_start_are_named_with_both_hosts():
    here = provenance.describe_start().facts
    assert provenance.changed_versions(here) is None
    before = {"packages": {**here["packages"], "jax": "0.0.1"}, "python": "3.0.0", "machine": {"host": "old"}}
    words = provenance.changed_versions(before)
    assert f"jax {here['packages']['jax']}, 0.0.1 then; Python {here['python']}, 3.0.0 then" in words
    assert f"on {here['machine']['host']} than at the last start, on old" in words
    assert provenance.changed_versions({}) is None
