"""The manifest of an attempt on GKE: everything that its pods need goes with it, code included."""

from __future__ import annotations

import hashlib
import lzma
import re
import shlex
import tarfile
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError
from lmx.launch import agent, jobset
from lmx.launch.gke_config import Gke
from lmx.launch.host import quote
from lmx.launch.target import Plan, command_of

LIMIT = 1_000_000
"""Bytes of a ConfigMap; Kubernetes takes 1 MiB."""

ARCHIVE = "code.tar.xz"
CODE = "/tmp/lmx-code"
TOLD = "/dev/termination-log"
"""Kubernetes keeps what is in this file when a container ends: the step of the newest checkpoint."""

SCRIPT = """\
# One process of a run, in its pod. It is the pod's first process, so it hands SIGTERM on.
run={run_dir}
attempt={number}.$LMX_RESTART
mkdir -p {mount}/runs && cd {mount} || exit 1
{code}
{setup}
newest() {{ ls -d "$run"/checkpoints/*/lmx.json 2>/dev/null | sort -V | tail -n 1; }}
tell() {{ newest | sed 's|/lmx.json$||; s|.*/||' >{told}; }}  # where kubectl finds it when the pod has ended
before=$(newest)
tell
resume=
if [ -n "$before" ]; then
  resume=--resume
elif [ "$attempt" != 0.0 ] && [ "$LMX_SLICE-$JOB_COMPLETION_INDEX" = 0-0 ] && [ -e "$run" ]; then
  # without a checkpoint it begins anew, in an empty directory
  mkdir -p "$run/before-attempt-$attempt"
  for name in {own}; do
    if [ -e "$run/$name" ]; then mv "$run/$name" "$run/before-attempt-$attempt"; fi
  done
fi

{command} $resume &
child=$!
trap 'kill -TERM $child' TERM
wait $child
code=$?
while kill -0 $child 2>/dev/null; do  # a signal ends the waiting, not the process
  wait $child
  code=$?
done
tell
# Stopped without having got on is a failure: such a run would be started again for ever.
if [ $code = {preempted} ] && [ "$(newest)" = "$before" ]; then code=1; fi
exit $code
"""


def name_of(plan: Plan, number: int) -> str:
    """The name of an attempt's JobSet. Names of pods are longer by slice and host, and have at most 63 characters."""
    return f"{run_label(plan)}-{number}"


def run_label(plan: Plan) -> str:
    """What all attempts of the run are labelled with, the same for no other run."""
    words = re.sub(r"[^a-z0-9]+", "-", plan.run.lower()).strip("-")[:24].rstrip("-")
    return f"lmx-{words or 'run'}-{hashlib.sha256(str(plan.folder).encode()).hexdigest()[:8]}"


def manifests(target: Gke, plan: Plan, number: int) -> list[dict[str, Any]]:
    """ConfigMap and JobSet of an attempt; RequestError where the code does not fit into them."""
    return jobset.manifests(job_of(target, plan, number))


def as_yaml(documents: list[dict[str, Any]]) -> str:
    """The manifests as text."""
    import yaml

    quick = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the code is a long line
    return yaml.dump_all(documents, Dumper=quick, sort_keys=False, width=110)


def job_of(target: Gke, plan: Plan, number: int) -> jobset.Job:
    """What the JobSet of an attempt is made of."""
    assert target.image is not None
    files: dict[str, str | bytes] = {"config.yaml": frozen(plan), "run.sh": script(target, plan, number)}
    if target.code == "snapshot":
        files[ARCHIVE] = packed(plan.folder / "code.tar")
    check_size(sum(len(data) for data in files.values()), plan.folder / "code.tar")
    return jobset.Job(
        name=name_of(plan, number),
        run=run_label(plan),
        namespace=target.namespace,
        image=target.image,
        command=["sh", f"{jobset.FILES}/run.sh"],
        files=files,
        slice=jobset.slice_of(target.accelerator, target.topology),
        slices=target.slices,
        environment={**target.env, **plan.environment},
        claim=target.claim,
        bucket=target.bucket,
        mount=target.mount,
        spot=target.spot,
        reservation=target.reservation,
        queue=target.queue,
        priority=target.priority,
        exclusive=target.exclusive,
        max_restarts=target.max_restarts,
        grace_s=round(target.grace),
        service_account=target.service_account,
        memory=target.memory,
        ttl_s=None if target.ttl is None else round(target.ttl),
    )


def frozen(plan: Plan) -> str:
    """The frozen configuration."""
    return plan.config.read_text(encoding="utf-8") if plan.config.exists() else plan.text


def packed(archive: Path) -> bytes:
    """The code, as small as it gets: the image's Python unpacks it. A word in its place where nothing is sent."""
    return lzma.compress(archive.read_bytes()) if archive.exists() else b"(the code, packed)"


def check_size(size: int, archive: Path) -> None:
    """RequestError, with the largest files of `archive`, where so many bytes do not fit into a ConfigMap."""
    if size > LIMIT:
        raise RequestError(
            f"target.code=snapshot: the checkout is {size / 1e6:.1f} MB when packed, and goes to the cluster in a "
            f"ConfigMap of at most {LIMIT / 1e6:g} MB{_largest(archive)}; leave out what no run needs (.gitignore, "
            "or PATTERN export-ignore in .gitattributes), or build it into the image and set target.code=installed"
        )


def _largest(archive: Path) -> str:
    if not archive.exists():  # the configuration alone is too large
        return ""
    with tarfile.open(archive) as tar:
        files = sorted(tar.getmembers(), key=lambda member: -member.size)[:3]
    return f" (the largest files: {', '.join(f'{one.name} {one.size / 1e3:,.0f} kB' for one in files)})"


def script(target: Gke, plan: Plan, number: int) -> str:
    """What every container runs."""
    words = command_of(target.python, f"{jobset.FILES}/config.yaml", plan.run_dir, resume=False)
    folder = {"snapshot": CODE, "installed": None}.get(target.code, target.code)
    code = []
    if target.code == "snapshot":
        code.append(f"{quote(target.python)} -m tarfile -e {jobset.FILES}/{ARCHIVE} {CODE} || exit 1")
    if folder is not None:
        code.append(f'export PYTHONPATH={shlex.quote(folder)}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    return SCRIPT.format(
        run_dir=shlex.quote(plan.run_dir),
        number=number,
        mount=shlex.quote(target.mount.rstrip("/")),
        code="\n".join(code),
        setup=f"\nset -e\n{target.setup}\nset +e\n" if target.setup is not None else "",
        told=TOLD,
        own=" ".join((*agent.OWN, *agent.OWN_TOO)),
        command=" ".join(map(quote, words)),
        preempted=jobset.PREEMPTED,
    )
