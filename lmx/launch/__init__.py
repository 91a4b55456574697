"""Starts `lmx` on many hosts. Imports no jax: it runs on a laptop, and for days."""

from lmx.launch.config import Local, Ssh
from lmx.launch.target import Attempt, Plan, Seen, Step, Target, Task
from lmx.launch.tpu_vm_config import TpuVm

__all__ = ["Attempt", "Local", "Plan", "Seen", "Ssh", "Step", "Target", "Task", "TpuVm"]
