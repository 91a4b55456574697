"""`lmx review` and `lmx diff`: from two configurations to one document of plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from pydantic import ValidationError

from lmx.chips import chip_of
from lmx.config.earlier import completed
from lmx.config.errors import UNSET, LmxError
from lmx.config.resume import preventing
from lmx.config.schema import flatten
from lmx.io.records import read_config, read_summary
from lmx.review.changes import Side, changes, changes_json
from lmx.review.estimate import Past
from lmx.review.gates import Gate, judge
from lmx.review.history import Beside, Old, old_runs, past_ratio, past_speed
from lmx.review.local import LANES
from lmx.review.prices import Prices
from lmx.review.tables import optimizer_table, sharding_table
from lmx.review.target import Target
from lmx.run.config import TrainConfig
from lmx.run.consequences import Consequences, consequences, derived
from lmx.run.outline import Outline, outline
from lmx.run.sides import train_tree
from lmx.run.target import target_of
from lmx.sharding import ways

CPU_KINDS = ("cpu", "TFRT_CPU_0")


class Asked(NamedTuple):
    """What a review is asked for beside the two configurations; None where it is not."""

    topology: str | None
    slices: int | None
    prices: Prices | None
    gates: Mapping[str, Gate]
    roots: Sequence[str]
    most_runs: int
    shown_runs: int
    extendable: Sequence[str]


class Followed(NamedTuple):
    """A configuration, followed to the end."""

    outline: Outline
    found: Consequences
    derived: dict[str, Any]


def follow(config: TrainConfig, asked: Asked, past: Past | None) -> Followed:
    """What follows from one configuration; RequestError or ConfigError where its parts do not fit."""
    out = outline(config, target_of(asked.topology, asked.slices, config.mesh))
    found = consequences(out, prices=asked.prices, past=past)
    return Followed(out, found, derived(out, found.values))


def document(old: Side, new: Side, config: TrainConfig, asked: Asked) -> dict[str, Any]:
    """The review of `new`, whose validated object is `config`, beside `old`."""
    old, new = (side._replace(tree=train_tree(side.tree)) for side in (old, new))
    runs = old_runs(asked.roots, new.tree, TrainConfig, most=asked.most_runs)
    target = target_of(asked.topology, asked.slices, config.mesh)
    beside = [] if target.chip is None else _beside(runs, target)
    past = past_speed(runs, CPU_KINDS) if target.chip is None else past_ratio(beside)
    now = follow(config, asked, past)
    before, why = _before(old, asked, past)
    found = changes(old, new, TrainConfig)
    facts = facts_of(now, runs)
    gates = judge(asked.gates, facts, config.waive, new.origins) if asked.gates else []
    told = changes_json(found)
    told["derived"] = _derived_changes(before, now)
    return {
        "name": new.label,
        "against": old.label,
        "target": _target(now.outline),
        "changes": told,
        "consequences": now.found.values,
        "against_consequences": None if before is None else before.found.values,
        "against_target": None if before is None else _target(before.outline),
        "against_problem": why,
        "differences": {} if before is None else _differences(before.found.values, now.found.values),
        "derived": now.derived,
        "memory": {"moment": now.found.memory.moment, **now.found.memory.parts},
        "step_time_basis": None if now.found.time is None else now.found.time.basis,
        "bound": None if now.found.time is None else now.found.time.bound,
        "price": None if asked.prices is None else asked.prices.model_dump(exclude={"chip_hour"}),
        "schedule": now.found.curve,
        "sharding": [row._asdict() for row in _sharding(now.outline)],
        "optimizer": optimizer_table(config.optimizer, now.outline.model.specs),
        "gates": [gate._asdict() for gate in gates],
        "compatibility": compatibility(old, new, asked.extendable),
        "history": _history(runs, beside, past, asked.shown_runs),
    }


def _before(old: Side, asked: Asked, past: Past | None) -> tuple[Followed | None, str | None]:
    """What follows from the other configuration, or why that cannot be told."""
    try:
        config = TrainConfig.model_validate(old.tree)
        try:
            return follow(config, asked, past), None
        except (LmxError, ValueError):
            # Its mesh is for other devices: then it is followed on those.
            own = asked._replace(topology=None, slices=None)
            return follow(config, own, None), None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return None, f"{old.label} does not hold under the schema of today: {where}: {first['msg']}"
    except (LmxError, ValueError) as error:
        return None, f"{old.label}: {error}"


def _target(out: Outline) -> dict[str, Any]:
    target = out.target
    inside, across = target.link
    return {
        "topology": str(target),
        "devices": target.devices,
        "slices": target.slices,
        "chip": None if target.chip is None else target.chip.name,
        "mesh": out.sizes,
        "links": {name: across if n > 1 else inside for name, n in out.between.items()},
    }


def facts_of(now: Followed, runs: Sequence[Old]) -> dict[str, Any]:
    """Every number that a gate can be about."""
    config, values = now.outline.config, now.found.values
    trainer, rules, sizes = config.trainer, config.mesh.rules, now.outline.sizes
    hours, whole = values["step_time"], values["wall_hours"]
    # What is done at the end alone is done once in the whole run.
    of = lambda every: whole if every is None or hours is None else hours / 3600 * every
    minutes, saved = config.checkpoint.every_minutes, of(config.checkpoint.every)
    saved = saved if minutes is None else min(minutes / 60, saved or math.inf)
    lanes = LANES if now.outline.target.platform == "tpu" else 1
    steps = values["steps"]
    warm = now.derived["warmup_fraction"]
    return {
        **values,
        **{k: v for k, v in now.derived.items() if " " not in k},
        "warmup_over_run": warm if steps else None,
        "evaluation_hours": of(trainer.eval_every),
        "checkpoint_hours": saved,
        "batch_remainder": trainer.batch_sequences() % (trainer.accumulation * ways(sizes, rules, "batch")),
        "vocabulary_remainder": config.model.vocab_size % (lanes * ways(sizes, rules, "act_vocab")),
        "runs_with_this_seed": sum(run.same and run.status == "done" for run in runs),
    }


def _sharding(out: Outline) -> list[Any]:
    config = out.config
    return sharding_table(
        out.model.specs,
        config.mesh.rules,
        out.sizes,
        itemsize=jnp.dtype(config.trainer.param_dtype).itemsize,
        tpu=out.target.platform == "tpu",
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> new minus old, where both are numbers that differ."""
    found = {}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, int | float) and isinstance(before, int | float) and value != before:
            found[name] = value - before
    return found


def _derived_changes(before: Followed | None, now: Followed) -> list[dict[str, Any]]:
    old = {} if before is None else before.derived
    names = dict.fromkeys([*old, *now.derived])
    return [
        {"name": name, "old": old.get(name), "new": now.derived.get(name)}
        for name in names
        if not _close(old.get(name), now.derived.get(name))
    ]


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b


def compatibility(old: Side, new: Side, extendable: Sequence[str]) -> dict[str, Any]:
    """Whether a run of `old` goes on with `new`, and the leaves that prevent it."""
    found = preventing(old.tree, new.tree, TrainConfig, extendable)
    plain = lambda value: None if value is UNSET else value
    return {
        "resumable": not found,
        "prevents": [
            {"key": d.key, "old": plain(d.old), "new": plain(d.new)}
            for d in found
            if plain(d.old) != plain(d.new) or len(found) == 1
        ],
    }


def _beside(runs: Sequence[Old], target: Target) -> list[Beside]:
    """Predicted and measured steps of the most alike past runs on this kind of chip."""
    found: list[Beside] = []
    for run in runs:
        chip = chip_of(run.device_kind)
        if chip is None or target.chip is None or chip.name != target.chip.name or not run.step_time:
            continue
        summary = read_summary(Path(run.path))
        tree = completed(read_config(Path(run.path)), TrainConfig)
        devices = int(summary.get("devices") or 1)
        try:
            config = TrainConfig.model_validate(train_tree(tree))
            then = outline(config, Target(chip.name, chip, devices, 1))
        except (LmxError, ValueError):
            continue  # of another version: its prediction cannot be made again
        told = consequences(then, prices=None, past=None)
        if told.time is not None:
            peak = told.values["peak_bytes_per_device"]
            found.append(Beside(run.path, told.time.middle, run.step_time, peak, run.peak_memory))
        if len(found) == 3:
            break
    return found


def _history(runs: Sequence[Old], beside: Sequence[Beside], past: Past | None, shown: int) -> dict[str, Any]:
    predicted = list(beside)
    if not beside and past is not None:
        for run in [run for run in runs if run.speed and run.step_time][:shown]:
            others = past_speed([other for other in runs if other is not run], [run.device_kind])
            if others is None:  # a run cannot be foretold from itself
                continue
            told = run.step_time * run.speed / others.middle  # type: ignore[operator]
            predicted.append(Beside(run.path, told, run.step_time))  # type: ignore[arg-type]
    return {
        "runs": [run._asdict() for run in runs[:shown]],
        "looked_at": len(runs),
        "predictions": [{**b._asdict(), "ratio": b.ratio} for b in predicted],
    }


def shown_tree(tree: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of `tree` that are not as in `base`."""
    before = flatten(base)
    return {key: value for key, value in flatten(tree).items() if before.get(key, UNSET) != value}
