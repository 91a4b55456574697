"""The scripts of the workflow that comments pull requests, with a recorded event."""

from __future__ import annotations

import json
import os
import stat
import subprocess

import yaml

from tests.support import ROOT

EVENT = ROOT / "tests" / "review" / "event" / "pull_request.json"
GH = """#!/usr/bin/env bash
# Stands for GitHub's command line: keeps what it is asked, knows one comment when told to.
echo "$@" >> "$GH_LOG"
if [ -n "${KNOWN:-}" ] && [[ $* == *--paginate* ]]; then echo "$KNOWN"; fi
"""


def posted(tmp_path, known=""):
    gh, log, text = tmp_path / "gh", tmp_path / "log", tmp_path / "review.md"
    gh.write_text(GH)
    gh.chmod(gh.stat().st_mode | stat.S_IXUSR)
    text.write_text("<!-- lmx review -->\nNo experiment changes.\n")
    environment = os.environ | {"GH": str(gh), "GH_LOG": str(log), "KNOWN": known}
    subprocess.run([ROOT / ".ci" / "comment", EVENT, text], env=environment, check=True)
    return log.read_text().splitlines()


def test_the_first_review_is_posted_and_the_next_updates_it(tmp_path):
    first = posted(tmp_path)
    assert first[-1].startswith("api --method POST repos/example/lmx/issues/7/comments -F body=@")
    (tmp_path / "log").unlink()
    later = posted(tmp_path, known="31")
    assert later[-1].startswith("api --method PATCH repos/example/lmx/issues/comments/31 -F body=@")


def test_the_workflow_runs_these_scripts():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "review.yaml").read_text())
    runs = [step.get("run", "") for step in workflow["jobs"]["review"]["steps"]]
    for script in (".ci/review", ".ci/comment"):
        assert any(run.startswith(script) for run in runs)
        assert os.access(ROOT / script, os.X_OK)
    assert json.loads(EVENT.read_text())["pull_request"]["base"]["sha"]
