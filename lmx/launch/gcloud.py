"""`gcloud compute tpus`: how it is asked, and what its errors mean. Nothing else of the cloud is spoken to."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any, NamedTuple

from lmx.config.errors import RequestError
from lmx.launch.host import missing_program

TIMEOUT = 900.0
_LONGEST = 500

_KINDS = (
    ("no zone", r"attribute \[zone\]|\[compute/zone\]"),
    ("no project", r"attribute \[project\]|\[core/project\]|\[project\]"),
    ("API is off", r"SERVICE_DISABLED|has not been used in project|API is not enabled|it is disabled"),
    (
        "no credentials",
        r"UNAUTHENTICATED|active account|auth login|refreshing your current auth|credential file",
    ),
    ("not there", r"NOT_FOUND|was not found"),
    ("not allowed", r"PERMISSION_DENIED|does not have permission|[Pp]ermission .*denied"),
    ("quota", r"RESOURCE_EXHAUSTED|[Qq]uota"),
    ("there already", r"ALREADY_EXISTS|already exists"),
    (
        "no answer",
        r"UNAVAILABLE|DEADLINE_EXCEEDED|Could not reach|Unable to find the server|[Tt]imed out|Connection",
    ),
    ("wrong", r"INVALID_ARGUMENT|FAILED_PRECONDITION|[Ii]nvalid|unrecognized arguments"),
)
"""What sort of error it is, by its text: the first that fits."""


class Trouble(RequestError):
    """What gcloud could not do; `kind` is one of the names in `_KINDS`, or `other`."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class Cloud(NamedTuple):
    """gcloud, and where it works; None: what gcloud itself is set to."""

    program: str
    project: str | None
    zone: str | None

    def words(self, *words: str, track: str | None = None) -> tuple[str, ...]:
        """The command `gcloud [track] compute tpus WORDS` in this project and zone, asking nothing."""
        place = {"--project": self.project, "--zone": self.zone}
        flags = [f"{flag}={value}" for flag, value in place.items() if value is not None]
        return (self.program, *((track,) if track else ()), "compute", "tpus", *words, *flags, "--quiet")

    def run(self, words: tuple[str, ...]) -> str:
        """What a command prints. Trouble where it fails; RequestError where there is no gcloud."""
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                check=False,
            )
        except FileNotFoundError:
            raise RequestError(missing_program(self.program)) from None
        except subprocess.TimeoutExpired:
            raise Trouble("no answer", f"{' '.join(words[:6])}: no answer within {TIMEOUT:.0f} s") from None
        if done.returncode:
            raise self.trouble(done.stderr or f"exit code {done.returncode}")
        return done.stdout

    def describe(self, sort: str, name: str) -> dict[str, Any] | None:
        """A `queued-resources` or `tpu-vm` as gcloud describes it; None where there is none of that name."""
        try:
            return json.loads(self.run(self.describe_words(sort, name)))
        except Trouble as trouble:
            if trouble.kind == "not there":
                return None
            raise

    def describe_words(self, sort: str, name: str) -> tuple[str, ...]:
        """The command for it."""
        return (*self.words(sort, "describe", name), "--format=json")

    def trouble(self, said: str) -> Trouble:
        """One message for what gcloud has said on its standard error, with the cure."""
        found = re.search(r"^ERROR: (?:\([\w.\- ]+\) )?(.*)", said, re.MULTILINE | re.DOTALL)
        text = " ".join((found[1] if found else said).split())
        kind = next((kind for kind, pattern in _KINDS if re.search(pattern, text)), "other")
        text = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
        cure = self.cure(kind)
        return Trouble(kind, f"gcloud: {text}" + (f"\n    {cure}" if cure else ""))

    def cure(self, kind: str) -> str:
        """What a person can do about a sort of error."""
        project = self.project or "PROJECT"
        return {
            "no zone": "set target.zone=ZONE, such as us-east5-a (gcloud compute tpus locations list)",
            "no project": "set target.project=PROJECT (gcloud projects list)",
            "API is off": f"switch it on: gcloud services enable tpu.googleapis.com --project={project}",
            "no credentials": "log in: gcloud auth login (on a machine without a browser: --no-browser)",
            "not allowed": f"whoever runs this (gcloud config get account) needs roles/tpu.admin in {project}, "
            "and roles/iam.serviceAccountUser on the service account of the workers",
            "quota": "ask for more (console: IAM & Admin > Quotas, service tpu.googleapis.com), give back what you "
            "hold (gcloud compute tpus queued-resources list), or change target.zone, target.accelerator_type, "
            "target.count or target.spot",
            "no answer": "try again; is there a network?",
            "wrong": "what a zone has: gcloud compute tpus accelerator-types list, gcloud compute tpus tpu-vm versions "
            f"list, both with --zone={self.zone or 'ZONE'}",
        }.get(kind, "")
