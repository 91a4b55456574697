"""Starts `lmx` on many hosts. Imports no jax: it runs on a laptop, and for days."""

from lmx.launch.config import Local, Ssh
from lmx.launch.gke_config import Gke
from lmx.launch.slurm_config import Slurm
from lmx.launch.target import Attempt, Plan, Seen, Step, Target, Task
from lmx.launch.tpu_vm_config import TpuVm

__all__ = [
    "Attempt",
    "Gke",
    "Local",
    "Plan",
    "Seen",
    "Slurm",
    "Ssh",
    "Step",
    "Target",
    "Task",
    "TpuVm",
]
