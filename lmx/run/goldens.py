"""Goldens: what an experiment is and what follows from it, kept beside it as `plan.json`, and compared in CI."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.compose import Composer
from lmx.config.errors import UNSET, ConfigError, RequestError
from lmx.config.plain_tree import tree_hash
from lmx.config.schema import classes_at, differences, fields_of, flatten, pick
from lmx.io.files import write_atomic
from lmx.io.lines import is_object, is_text, is_texts, read_record
from lmx.run.config import TrainConfig
from lmx.run.review import Asked, Followed, follow, shown_tree
from lmx.run.sides import Side, composed_side, composer, last_commit, side, train_tree

PLAN = "plan.json"
EXACT = ("params_total", "params_active", "params_embedding", "tokens", "tokens_per_step", "steps", "devices")
KEPT = (
    *EXACT,
    *("flops_per_token", "flops_total", "optimizer_state_bytes", "checkpoint_bytes", "peak_bytes_per_device"),
    *("collective_bytes_per_step", "headroom"),
)
TOLERANCE = 0.005
"""Relative difference of a computed figure that counts as none: rounding of other versions of JAX."""

_SHAPE = {"values": is_object, "absent": is_texts, "consequences": is_object, "hash": is_text}


class Checked(NamedTuple):
    """An experiment beside its golden; `lines` are what differs, in words; empty: nothing."""

    name: str
    lines: list[str]


def plan_of(name: str, made: Composer[TrainConfig]) -> tuple[dict[str, Any], Followed]:
    """The sparse golden of an experiment: values that are not the defaults, consequences, hash."""
    composed, problems = made.check([f"experiment={name}"])
    if composed is None:
        raise ConfigError(problems, "review")
    base, wrong = made.check([])
    if base is None:
        raise ConfigError(wrong, "review")
    asked = Asked(None, None, None, {}, (), 0, 1, ())
    found = follow(composed.config, asked, None)
    values = shown_tree(train_tree(composed.tree), train_tree(base.tree))
    plan: dict[str, Any] = {
        "experiment": name,
        "topology": str(found.outline.target),
        "values": values,
        "absent": _absent(values, train_tree(base.tree), train_tree(composed.tree)),
        "consequences": {key: found.found.values[key] for key in KEPT},
    }
    return {**plan, "hash": tree_hash(train_tree(composed.tree), TrainConfig)[:16]}, found


def named(folder: Path, names: Sequence[str], made: Composer[TrainConfig]) -> list[str]:
    """The experiments asked for, or all that have a folder with a golden; RequestError for one that does not exist."""
    known = made.tree.options("experiment")
    for name in names:
        if name not in known:
            raise RequestError(f"names={name}: there is no such experiment; there are {', '.join(known)}")
    return list(names) or [path.parent.name for path in sorted(folder.glob(f"*/{PLAN}"))]


def check(folder: Path, names: Sequence[str]) -> list[Checked]:
    """Every experiment asked for beside its golden."""
    made = composer()
    found = []
    for name in named(folder, names, made):
        try:
            golden = read_record(folder / name / PLAN, _SHAPE)
        except RequestError as error:
            found.append(Checked(name, [str(error)]))
            continue
        if golden is None:
            found.append(Checked(name, [f"{folder / name / PLAN} is missing"]))
            continue
        if name not in made.tree.options("experiment"):
            found.append(Checked(name, [f"conf/experiment/{name}.yaml is gone"]))
            continue
        try:
            plan, _ = plan_of(name, made)
        except ConfigError as error:
            found.append(Checked(name, ["it cannot be composed:", *str(error).splitlines()]))
            continue
        same = golden["hash"] == plan["hash"]
        since = None if same else _since(folder / name / PLAN, golden, name, made)
        found.append(Checked(name, differing(golden, plan, since)))
    return found


def differing(
    golden: Mapping[str, Any], plan: Mapping[str, Any], since: Sequence[str] | None = None
) -> list[str]:
    """What is not as in the golden: `key: old -> new`. `since`: that of the values, where it is known by leaf."""
    lines = _differing_values(golden, plan) if since is None else list(since)
    was = golden["consequences"]
    for key, after in plan["consequences"].items():
        before = was.get(key)
        if not _same(key, before, after):
            lines.append(f"{key}: {_text(before)} -> {_text(after)}")
    if golden["hash"] != plan["hash"] and not lines:
        lines.append(f"hash: {golden['hash']} -> {plan['hash']} (a default that it uses has changed)")
    return lines


def _differing_values(golden: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """Of the values that are not defaults."""
    old = flatten(golden["values"]) | {
        key: value for key, value in golden.items() if not isinstance(value, dict)
    }
    new = flatten(plan["values"]) | {key: value for key, value in plan.items() if not isinstance(value, dict)}
    lines = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key, "(default)"), new.get(key, "(default)")
        if before == after or key == "hash":
            continue
        if golden["hash"] == plan["hash"]:
            same = after if before == "(default)" else before
            now = "no default any more" if before == "(default)" else "a default now"
            lines.append(f"{key}: {_text(same)} is {now}; the experiment is as it was")
        else:
            lines.append(f"{key}: {_text(before)} -> {_text(after)}")
    return lines


def _since(path: Path, golden: Mapping[str, Any], name: str, made: Composer[TrainConfig]) -> list[str] | None:
    """The leaves that differ from what the experiment was when git got its golden, with their places.

    None where git cannot tell.
    """
    commit = last_commit(path)
    if commit is None:
        return None
    try:
        old = side(f"{commit}:{name}", key="golden")
    except RequestError:  # it could not be composed there, or the history is not here
        return None
    if tree_hash(train_tree(old.tree), TrainConfig)[:16] != golden["hash"]:
        return None
    new = composed_side(made, [f"experiment={name}"], name)
    lines = []
    for leaf in differences(train_tree(old.tree), train_tree(new.tree), TrainConfig):
        if leaf.effect != "bookkeeping":
            before, after = ("(none)" if v is UNSET else _text(v) for v in (leaf.old, leaf.new))
            place = new.origins.get(leaf.key)
            lines.append(f"{leaf.key}: {before} -> {after}" + (f"  ({place})" if place else ""))
    return lines


def _same(key: str, before: Any, after: Any) -> bool:
    if key in EXACT or not isinstance(before, int | float) or not isinstance(after, int | float):
        return before == after
    return math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def write(folder: Path, names: Sequence[str]) -> list[Path]:
    """Writes the goldens of the experiments asked for; those that say the same are left as they are."""
    made = composer()
    written = []
    for name in named(folder, names, made):
        plan, _ = plan_of(name, made)
        path = folder / name / PLAN
        if _holds(path, plan):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(plan, indent=1, ensure_ascii=False) + "\n")
        written.append(path)
    return written


def _holds(path: Path, plan: Mapping[str, Any]) -> bool:
    try:
        old = read_record(path, _SHAPE)
    except RequestError:
        return False  # it is written anew
    return old is not None and not differing(old, plan) and old["hash"] == plan["hash"]


def golden_side(folder: Path, words: Sequence[str], made: Composer[TrainConfig]) -> Side:
    """What the golden of the experiment among `words` says it was, over today's defaults.

    A golden keeps what is not a default. Where a default that it used has changed since, the label says so.
    RequestError where no experiment is chosen, or it has no golden.
    """
    names = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    if not names:
        raise RequestError("against=golden: choose the experiment whose golden is meant, experiment=NAME")
    path = folder / names[-1] / PLAN
    golden = read_record(path, _SHAPE)
    if golden is None:
        raise RequestError(
            f"against=golden: {path} is missing; lmx review --write 'names=[{names[-1]}]' writes it"
        )
    base, wrong = made.check([])
    if base is None:
        raise ConfigError(wrong, "review")
    tree = _over(train_tree(base.tree), golden["values"])
    for key in golden["absent"]:
        _remove(tree, key)
    same = tree_hash(tree, TrainConfig)[:16] == golden["hash"]
    label = str(path) if same else f"{path} (defaults that it uses have changed since)"
    return Side(label, tree, dict.fromkeys(golden["values"], str(path)))


def _absent(values: Mapping[str, Any], base: Mapping[str, Any], tree: Mapping[str, Any]) -> list[str]:
    """Entries of the defaults' mappings that an experiment leaves out."""
    kept = flatten(tree)
    return [key for key in flatten(_over(base, values)) if key not in kept]


def _over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    tree = copy.deepcopy(dict(base))
    for key, value in values.items():
        _put(tree, key, value)
    return _known(tree, TrainConfig)


def _remove(tree: dict[str, Any], key: str) -> None:
    parent, _, last = key.rpartition(".")
    node = pick(tree, parent)
    if isinstance(node, dict):
        node.pop(last, None)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    node = tree
    *parents, last = key.split(".")
    for part in parents:
        if not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    node[last] = value


def _known(value: Any, annotation: Any) -> Any:
    """Without the keys of defaults that the class which stands there now does not have."""
    classes = classes_at(annotation, value)
    if not isinstance(value, Mapping) or len(classes) != 1:
        return value
    fields = fields_of(classes[0])
    return {
        key: _known(inner, fields[key].annotation) if key in fields else inner
        for key, inner in value.items()
        if key in fields or key == "_target_"
    }
