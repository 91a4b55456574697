import pytest

from lmx.config.errors import RequestError
from lmx.launch.plan import load_target
from lmx.sweep.cost import agree, chips, cost_of
from lmx.sweep.plan import Job
from tests.support import read_option


def target(name, **changes):
    return load_target(read_option("target", name) | changes)


def job(axes=None, duration=None):
    return Job(0, [], "", {"mesh": {"axes": axes or {}}, "trainer": {"duration": duration}})


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (target("tpu_vm", accelerator_type="v5litepod-16"), 16),
        (target("tpu_vm", accelerator_type="v4-32", count=2), 32),
        (target("gke", topology="4x4", slices=2), 32),
        (target("slurm", nodes=3, gpus=8), 24),
        (target("slurm", nodes=3), 0),
        (target("ssh", hosts=["a", "b"], processes=4), 8),
        (target("local", processes=2, devices=4), 0),
    ],
)
def test_targets_know_their_chips(where, count):
    assert chips(where, job().config) == count


def test_the_mesh_of_a_job_counts_where_the_target_names_no_chips():
    assert chips(target("ssh", hosts=["a", "b"]), job({"fsdp": 8}).config) == 8


def test_a_cost_is_told_and_asked_for_above_a_limit():
    pods = [target("tpu_vm", accelerator_type="v5litepod-16"), target("gke", topology="4x4", slices=2)]
    cost = cost_of([job()] * 4, pods, 0.5)
    assert cost.chip_hours == 64
    assert cost.words() == (
        "4 jobs on 16 to 32 chips each, 2 pods at a time: about 64 chip-hours in 1 h (0.5 h a job)"
    )
    agree(cost, 64)
    agree(cost, 10, ask=lambda words: "yes")
    for answer in (None, lambda words: "n"):
        with pytest.raises(
            RequestError, match=r"about 64 chip-hours.*max_chip_hours=10; .*max_chip_hours=64$"
        ):
            agree(cost, 10, ask=answer)


def test_the_time_of_a_job_is_its_duration_or_not_known():
    pods = [target("gke", topology="4x4")]
    assert cost_of([job(duration=3600.0)] * 2, pods, None).chip_hours == 32
    unknown = cost_of([job()], pods, None)
    assert "what they cost is not known" in unknown.words()
    agree(unknown, None)
    agree(unknown, 1, ask=lambda words: "y" if "not known" in words else "n")
    with pytest.raises(RequestError, match=r"nothing was started\..*hours_per_job=H.*max_chip_hours=null"):
        agree(unknown, 1)
    assert cost_of([job()], [target("local", devices=2)], 1.0) is None
