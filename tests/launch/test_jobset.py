"""JobSets: against the official schema with unknown fields forbidden, and against goldens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lmx.config.errors import RequestError
from lmx.launch.jobset import Job, jobset, manifests, slice_of
from tests.launch.kube import jobset_schema, wrong
from tests.support import ROOT

CRD = ROOT / "../shared/schemas/jobset-crd.yaml"
GOLDEN = Path(__file__).with_name("golden_jobset.yaml")


def job(**changes):
    given = {
        "name": "run-1",
        "run": "run",
        "namespace": None,
        "image": "gcr.io/p/lmx:1",
        "command": ["sh", "/etc/lmx/run.sh"],
        "files": {"config.yaml": "name: x\n"},
        "slice": slice_of("v5p", "2x2x4"),
        "slices": 2,
        "environment": {"B": "2", "A": "1"},
        "claim": "runs",
        "bucket": None,
        "mount": "/lmx",
        "spot": False,
        "reservation": None,
        "queue": None,
        "priority": None,
        "exclusive": True,
        "max_restarts": 3,
        "grace_s": 120,
        "service_account": None,
        "memory": None,
        "ttl_s": None,
    }
    return Job(**given | changes)


VARIANTS = {
    "plain": {},
    "spot": {"spot": True, "slice": slice_of("v6e", "4x4"), "slices": 1, "claim": None, "bucket": "b"},
    "kueue": {"namespace": "team", "queue": "tpus", "priority": "high", "exclusive": False, "ttl_s": 3600},
    "reserved": {
        "reservation": "r",
        "files": {"run.sh": "exit 0\n", "code.tar.xz": b"\0\1"},
        "service_account": "s",
        "memory": "100Gi",
        "slice": slice_of("tpu7x", "2x2x1"),
    },
}


@pytest.mark.parametrize(
    ("accelerator", "topology", "label", "hosts", "chips"),
    [
        ("v4", "2x2x1", "tpu-v4-podslice", 1, 4),
        ("v4", "2x2x4", "tpu-v4-podslice", 4, 4),
        ("v5e", "2x4", "tpu-v5-lite-podslice", 1, 8),
        ("v5e", "1x1", "tpu-v5-lite-podslice", 1, 1),
        ("v5e", "16x16", "tpu-v5-lite-podslice", 64, 4),
        ("v5p", "4x4x4", "tpu-v5p-slice", 16, 4),
        ("v5p", "8x8x12", "tpu-v5p-slice", 192, 4),
        ("v6e", "4x4", "tpu-v6e-slice", 4, 4),
        ("tpu7x", "2x2x2", "tpu7x", 2, 4),
    ],
)
def test_slices(accelerator, topology, label, hosts, chips):
    assert slice_of(accelerator, topology) == (label, topology, hosts, chips)


@pytest.mark.parametrize(
    ("accelerator", "topology", "message"),
    [
        ("v9", "2x2", "v4, v5e, v5p"),
        ("v5p", "4x4", "3 dimensions"),
        ("v5e", "4", "2 dimensions"),
        ("v5e", "3x3", "no such slices; there are 1x1, 2x2, 2x4, 4x4,"),
        ("v5e", "4x5", "no such slices"),
        ("v5p", "2x4x6", "no such slices.*multiples of 4"),
    ],
)
def test_no_such_slice(accelerator, topology, message):
    with pytest.raises(RequestError, match=message):
        slice_of(accelerator, topology)


@pytest.fixture(scope="module")
def schema():
    if not CRD.exists():
        pytest.skip("the CRD of JobSet is not here")
    return jobset_schema(CRD)


@pytest.mark.parametrize("name", VARIANTS)
def test_official_schema(schema, name):
    assert wrong(schema, jobset(job(**VARIANTS[name]))) == []


def test_the_check_itself_finds_what_is_wrong(schema):
    built = jobset(job())
    built["spec"]["failurePolicy"]["maxRestart"] = built["spec"]["failurePolicy"].pop("maxRestarts")
    built["spec"]["replicatedJobs"][0]["template"]["spec"]["parallelism"] = "4"
    assert len(wrong(schema, built)) == 2


def test_goldens():
    """LMX_WRITE_GOLDENS=1 renews them."""
    import os

    text = yaml.safe_dump_all([m for c in VARIANTS.values() for m in manifests(job(**c))], sort_keys=False)
    if os.environ.get("LMX_WRITE_GOLDENS"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_json_and_yaml_are_the_same():
    built = manifests(job())
    assert json.loads(json.dumps(built)) == list(yaml.safe_load_all(yaml.safe_dump_all(built)))
