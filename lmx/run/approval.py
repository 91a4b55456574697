"""Approvals: who has agreed, when, to exactly which run; and the launch that asks for one."""

from __future__ import annotations

import getpass
import hashlib
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.config.errors import RequestError
from lmx.config.foreign import cut, parse_json
from lmx.config.plain_tree import tree_hash
from lmx.config.schema import flatten
from lmx.io.files import to_json, write_atomic
from lmx.io.lines import expect_shape, is_object, is_text, is_texts
from lmx.run.config import TrainConfig
from lmx.run.sides import train_tree

APPROVED = "approved.json"


def fingerprint(tree: Mapping[str, Any], topology: str) -> dict[str, str]:
    """Hashes of what an approval is of; names, places and intervals of logging do not count."""
    return {
        "config": tree_hash(train_tree(tree), TrainConfig)[:32],
        "code": code_hash(),
        "topology": topology,
    }


def approve(
    folder: Path,
    name: str,
    tree: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    *,
    topology: str,
    by: str | None,
) -> dict[str, Any]:
    """Adds an approval to FOLDER/NAME/approved.json, with a sweep around it: its points, and what is between."""
    path = folder / name / APPROVED
    entry = {
        "by": by or _me(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **fingerprint(tree, topology),
        "sweep": [tree_hash(train_tree(point), TrainConfig)[:32] for point in points],
        "ranges": _ranges(points),
        "values": flatten(train_tree(tree)),
    }
    entries = [e for e in approvals(path) if e["config"] != entry["config"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_json([*entries, entry], indent=1) + "\n")
    return entry


def _ranges(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Leaf -> the values that it takes, of those in which the points differ."""
    trees = [flatten(train_tree(point)) for point in points]
    found = {key: [tree.get(key) for tree in trees] for key in dict.fromkeys(key for t in trees for key in t)}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _inside(value: Any, values: Sequence[Any]) -> bool:
    """Whether a value is one of these, or a number between them."""
    numbers = [v for v in (value, *values) if isinstance(v, int | float) and not isinstance(v, bool)]
    between = len(numbers) == len(values) + 1 and min(numbers[1:]) <= numbers[0] <= max(numbers[1:])
    return value in values or between


def approvals(path: Path) -> list[dict[str, Any]]:
    """The entries of an approved.json, [] where there is none; RequestError where it is damaged."""
    shape = dict.fromkeys(("by", "at", "config", "code", "topology"), is_text)
    try:
        found = parse_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    for entry in found if isinstance(found, list) else [None]:
        expect_shape(path, entry, {**shape, "sweep": is_texts, "ranges": _are_ranges, "values": is_object})
    return found


def _are_ranges(value: Any) -> bool:
    return is_object(value) and all(isinstance(values, list) for values in value.values())


def _me() -> str:
    """git's name and address of the user, or the name of the account."""
    words = []
    for key in ("user.name", "user.email"):
        try:
            done = subprocess.run(["git", "config", key], capture_output=True, text=True, check=False)
        except OSError:
            break
        if done.stdout.strip():
            words.append(done.stdout.strip())
    return " ".join(words) or getpass.getuser()


def require(
    folder: Path, name: str, tree: Mapping[str, Any], topology: str | None, *, words: Sequence[str] = ()
) -> dict[str, Any]:
    """The approval of this run; RequestError that says what differs from the nearest one that is approved.

    `topology` None: the place it runs on does not tell, so that of the approval counts. `words`: the overrides that
    make the run, for the command that approves it.
    """
    entries = approvals(folder / name / APPROVED)
    cure = _cure(name, words)
    if not entries:
        raise RequestError(f"{name}: nothing is approved ({folder / name / APPROVED} is not there)\n  {cure}")
    asked = fingerprint(tree, topology or "")
    for entry in entries:
        known = (
            asked["config"] == entry["config"] or asked["config"] in entry["sweep"] or _between(entry, tree)
        )
        if known and entry["code"] == asked["code"] and topology in (None, entry["topology"]):
            return entry
    near = min(entries, key=lambda e: len(_differing(e, tree)))
    lines = [
        f"{key}: {before} -> {after}"
        + (
            f" (approved: {', '.join(dict.fromkeys(map(str, near['ranges'][key])))})"
            if key in near["ranges"]
            else ""
        )
        for key, (before, after) in _differing(near, tree).items()
    ]
    if near["code"] != asked["code"]:
        lines.append("the code of lmx, or the versions of what it is installed with")
    if topology is not None and near["topology"] != topology:
        lines.append(f"topology: {near['topology']} -> {topology}")
    told = "\n".join(f"    {cut(line, 300)}" for line in lines[:20])
    by, at = cut(near["by"], 72), cut(near["at"], 40)
    raise RequestError(
        f"{name}: this run is not approved. From the one that {by} approved at {at} differs\n{told}\n  {cure}"
    )


def _cure(name: str, words: Sequence[str]) -> str:
    if any(word.startswith("experiment=") for word in words):
        return shlex.join(["lmx", "review", "approve", *words])
    return (
        f"what is approved is an experiment: keep this one in conf/experiment/{name}.yaml, then lmx review approve "
        f"experiment={name}; or launch it with approval.above_chips=null"
    )


def _between(entry: Mapping[str, Any], tree: Mapping[str, Any]) -> bool:
    """Whether the run lies inside of what an approved sweep varies."""
    leaves = _differing(entry, tree)
    return all(
        key in entry["ranges"] and _inside(after, entry["ranges"][key]) for key, (_, after) in leaves.items()
    )


def _differing(entry: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Leaf -> (approved, asked for), of all that change what is computed."""
    from lmx.config.schema import effect_of

    new, old = flatten(train_tree(tree)), entry["values"]
    found = {}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key, "(none)"), new.get(key, "(none)")
        if before == after:
            continue
        try:
            if effect_of(TrainConfig, key, tree) == "bookkeeping":
                continue
        except KeyError:
            pass
        found[key] = (before, after)
    return found


def code_hash() -> str:
    """sha256 of the library's sources and of what it is installed with: two checkouts with one hash compute alike."""
    from importlib import metadata

    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    for name in ("jax", "jaxlib", "optax", "numpy", "grain", "orbax-checkpoint"):
        try:
            digest.update(f"{name} {metadata.version(name)}".encode())
        except metadata.PackageNotFoundError:
            digest.update(f"{name} none".encode())
    return digest.hexdigest()[:32]
