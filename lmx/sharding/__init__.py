"""Logical axes -> mesh axes, and devices -> meshes. Only `conf/mesh` names mesh axes."""

from lmx.sharding.devices import Link, axis_sizes, crossing, describe_mesh, links, make_mesh, n_slices
from lmx.sharding.rules import Shard, check_divisible, make_shard, spec, split_axes, ways

__all__ = [
    "Link",
    "Shard",
    "axis_sizes",
    "check_divisible",
    "crossing",
    "describe_mesh",
    "links",
    "make_mesh",
    "make_shard",
    "n_slices",
    "spec",
    "split_axes",
    "ways",
]
