"""How far two runs of the same steps are apart, tensor by tensor; and which tensor is the first that is too far."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROUNDING = 2.0**-23
"""The relative step of float32."""


class Difference(NamedTuple):
    """How far one quantity is from the reference's, relative to the size of the reference's.

    step      from 0 on
    tensor    its path, `loss` for the loss
    layer     number of the layer, or None where the tensor belongs to none
    error     2-norm of the difference, over that of the reference
    allowed   the largest error that counts as noise
    """

    step: int
    tensor: str
    layer: int | None
    error: float
    allowed: float

    @property
    def ratio(self) -> float:
        """The error as a part of what is allowed; infinite where it is not a number."""
        if not math.isfinite(self.error):
            return math.inf
        return self.error / self.allowed if self.allowed else (math.inf if self.error else 0.0)

    def where(self) -> str:
        """The tensor in words."""
        return self.tensor if self.layer is None else f"{self.tensor} of layer {self.layer}"


class Comparison(NamedTuple):
    """One run beside the reference; lists are in the order of the steps, then of the forward pass.

    initial     paths of initial parameters that are not equal bit for bit
    loss, gradients, updates    differences
    """

    initial: list[str]
    loss: list[Difference]
    gradients: list[Difference]
    updates: list[Difference]

    @property
    def agrees(self) -> bool:
        """Whether initial parameters are equal and all else is within noise."""
        return not self.initial and all(d.ratio <= 1 for d in self.all)

    @property
    def all(self) -> list[Difference]:
        """Every difference."""
        return [*self.loss, *self.gradients, *self.updates]

    def first_bad_step(self) -> int | None:
        """The first step at which something is not within noise."""
        return min((d.step for d in self.all if d.ratio > 1), default=None)


def worst(differences: Iterable[Difference]) -> Difference | None:
    """The one that is farthest from being noise."""
    return max(differences, key=lambda d: (d.ratio, d.error), default=None)


class Recorded:
    """What a run left in its folder: initial parameters, losses, and gradients and updates of each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())

    @property
    def losses(self) -> list[float]:
        """One a step."""
        return self.meta["losses"]

    def arrays(self, name: str) -> Mapping[str, np.ndarray]:
        """`initial`, `gradients_3`, `updates_3`: path -> array."""
        with np.load(self.folder / f"{name}.npz") as found:
            return {path: found[path] for path in found.files}

    def slices(self, path: str, array: np.ndarray) -> list[tuple[int | None, np.ndarray]]:
        """The layers of a stacked parameter with their numbers; what belongs to no layer, whole."""
        parts = path.split(".")
        numbers = self.meta["layers"].get(parts[1]) if parts[0] == "layers" and len(parts) > 1 else None
        if numbers is None or len(numbers) != array.shape[0]:
            return [(None, array)]
        return list(zip(numbers, array, strict=True))


def compare(reference: Recorded, twin: Recorded, run: Recorded, *, tolerance: float) -> Comparison:
    """`run` beside `reference`; `twin` is the reference begun a rounding away, which tells what noise is.

    An error is allowed up to `tolerance` times the twin's (its largest so far, of that tensor and layer), or times
    one rounding where that is more.
    """
    start, own = reference.arrays("initial"), run.arrays("initial")
    initial = [
        path
        for path in {**start, **own}
        if path not in own or path not in start or not _equal(start[path], own[path])
    ]
    noise = _Noise(tolerance)
    found: dict[str, list[Difference]] = {"loss": [], "gradients": [], "updates": []}
    for step, loss in enumerate(reference.losses):
        others = [np.asarray(r.losses[step] if step < len(r.losses) else math.nan) for r in (twin, run)]
        found["loss"].append(noise.difference("loss", step, "loss", None, np.asarray(loss), *others))
        for kind in ("gradients", "updates"):
            arrays = [r.arrays(f"{kind}_{step}") for r in (reference, twin, run)]
            floor = ROUNDING * max((_size(x) for x in arrays[0].values()), default=0.0)
            for path in arrays[0]:
                slices = (reference.slices(path, a.get(path, np.empty(0))) for a in arrays)
                if len({a[path].shape for a in arrays if path in a}) > 1 or path not in arrays[2]:
                    found[kind].append(Difference(step, path, None, math.inf, 0.0))
                    continue
                for (layer, a), (_, b), (_, c) in zip(*slices, strict=True):
                    found[kind].append(noise.difference(kind, step, path, layer, a, b, c, floor=floor))
    return Comparison(initial, found["loss"], found["gradients"], found["updates"])


class _Noise:
    """What is allowed: of each quantity, the largest error of the twin so far."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.largest: dict[tuple[str, str, int | None], float] = {}

    def difference(
        self,
        kind: str,
        step: int,
        tensor: str,
        layer: int | None,
        base: np.ndarray,
        twin: np.ndarray,
        run: np.ndarray,
        *,
        floor: float = 0.0,
    ) -> Difference:
        key = (kind, tensor, layer)
        self.largest[key] = max(self.largest.get(key, ROUNDING), _error(base, twin, floor))
        return Difference(step, tensor, layer, _error(base, run, floor), self.tolerance * self.largest[key])


class Traced(NamedTuple):
    """The first activation that differs going forward, and the first gradient of one going back; None: none does.

    seen    how many activations both runs have
    """

    forward: Difference | None
    backward: Difference | None
    seen: int


def compare_traces(reference: Recorded, twin: Recorded, run: Recorded, *, tolerance: float) -> Traced:
    """`run` beside `reference`, activation by activation; `twin` tells what noise is."""
    first: dict[str, Difference | None] = {}
    step, seen = run.meta["traced"], 0
    for way in ("forward", "backward"):
        base, shaken, other = (_by_key(r.arrays(f"trace_{way}")) for r in (reference, twin, run))
        keys = list(base) if way == "forward" else list(reversed(base))
        noise, seen = ROUNDING, sum(key in other for key in keys)
        first[way] = None
        for key in keys:
            if key not in other:
                continue
            noise = max(noise, _error(base[key], shaken[key]))
            layer, tensor = key.split("|")[:2]
            error = _error(base[key], other[key])
            difference = Difference(step, tensor, int(layer) if layer else None, error, tolerance * noise)
            if difference.ratio > 1:
                first[way] = difference
                break
    return Traced(first["forward"], first["backward"], seen)


def _by_key(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`order|key` -> array, as key -> array in that order."""
    ordered = sorted(found, key=lambda label: int(label.split("|")[0]))
    return {label.partition("|")[2]: found[label] for label in ordered}


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _size(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.astype(np.float64)))


def _error(base: np.ndarray, other: np.ndarray, floor: float = 0.0) -> float:
    """2-norm of the difference over that of `base` (at least `floor`); infinite where shapes differ."""
    if base.shape != other.shape:
        return math.inf
    apart, size = _size(other.astype(np.float64) - base), max(_size(base), floor)
    if math.isnan(apart):
        return math.inf
    return apart / size if size else (math.inf if apart else 0.0)
