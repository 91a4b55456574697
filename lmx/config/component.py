"""What every configuration class is: frozen, without defaults, refusing unknown keys.

Values live in YAML alone; a class says names, types, units and meaning. Importing a configuration class
never imports jax: `build` imports what it needs when it is called, so help, completion and configuration
errors answer at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator
from pydantic_core import PydanticCustomError

from lmx.config.errors import UNSET

Effect = Literal["numerics", "throughput", "bookkeeping"]


class Fault(NamedTuple):
    """Something outside the configuration that does not fit it, such as a file that is not there.

    key      the key inside its node
    message  what is wrong
    better   a value to set instead, or None
    """

    key: str
    message: str
    better: Any = None


class Config(BaseModel):
    """A node of the configuration tree with a fixed set of keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True
    )

    @classmethod
    def faults(cls, node: Mapping[str, Any]) -> list[Fault]:
        """What can be seen at once to be wrong with what `node` names. Quick, and without heavy imports.

        `node` is plain and not validated: values of another type than expected are passed over here.
        """
        return []


class Component(Config):
    """A node that names its own class in `_target_`, so that users bring theirs without a fork.

    A field typed with a base class (`optimizer: Optimizer`) accepts any subclass of it, from any package.
    Only subclasses are accepted: a configuration can never call an arbitrary function.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _resolve_target(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        if not isinstance(data, dict):
            return handler(data)
        data = dict(data)
        if "_target_" not in data:
            if cls.__subclasses__():
                raise PydanticCustomError(
                    "target_missing",
                    "needs _target_, the class of this option (a subclass of {base})",
                    {"base": f"{cls.__module__}.{cls.__qualname__}"},
                )
            return handler(data)
        target = data.pop("_target_")
        found = resolve_target(target, cls)
        # With its name: a class that others derive from is still itself.
        return handler(data) if found is cls else found.model_validate({**data, "_target_": target})


def resolve_target(target: Any, base: type[Component]) -> type[Component]:
    """The class that a `_target_` names; a configuration error unless it is `base` or a subclass of it."""
    expected = f"{base.__module__}.{base.__qualname__}"
    if not isinstance(target, str) or "." not in target:
        raise PydanticCustomError(
            "target_invalid",
            "_target_ must be the full name of a class, got {target}",
            {"target": repr(target), "base": expected},
        )
    module_name, _, name = target.rpartition(".")
    own = target.split(".")[0] == __name__.split(".")[0]
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # what a module does when it is imported is its author's
        raise PydanticCustomError(
            "target_unknown" if own else "target_module",
            "_target_ {target} cannot be imported: {reason}",
            {"target": target, "reason": str(error) if own else _why(module_name, error)},
        ) from None
    found = getattr(module, name, None)
    if found is None:
        names = [n for n, c in vars(module).items() if isinstance(c, type) and c.__module__ == module_name]
        raise PydanticCustomError(
            "target_unknown" if own else "target_module",
            "_target_ {target} cannot be imported: {module} has no {name}{there}",
            {
                "target": target,
                "module": module_name,
                "name": name,
                "there": "" if own or not names else f"; its classes are {', '.join(names)}",
            },
        )
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PydanticCustomError(
            "target_refused",
            "_target_ {target} is not a subclass of {base}",
            {"target": target, "base": expected},
        )
    return found


def _why(module: str, error: Exception) -> str:
    """Which module failed, and what to do about it."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return f"importing {module} failed: {type(error).__name__}: {error}"
    package = module.split(".")[0]
    if error.name == package:
        return (
            f"there is no module {package!r}. Install its package (pip install -e FOLDER), or run lmx in the folder "
            f"that holds {package}, or add that folder to PYTHONPATH"
        )
    if module.startswith(error.name):
        return f"the package {package!r} has no module {error.name!r}"
    return f"{module} needs the module {error.name!r}, which is not there; install it"


def field(
    description: str,
    *,
    effect: Effect = "numerics",
    unit: str | None = None,
    example: str | None = None,
    off: str | None = None,
    before: Any = UNSET,
    **limits: Any,
) -> Any:
    """A required key: its meaning, its unit, and what a change of it affects.

    `example` is a value to show where none is given; `off` what turns a node off that cannot be null
    (`tokens=0`, a key inside and its value). `before`, for a key that earlier versions did not have: the value that
    does what they did, taken for the configurations that they froze (see `lmx.config.earlier`).

    `effect` is `numerics` (the result of a run changes), `throughput` (only its speed or memory does) or
    `bookkeeping` (neither does); a resumed run accepts changes of the last two.
    """
    told = {"effect": effect, "unit": unit, "example": example, "off": off}
    extra: Any = {name: value for name, value in told.items() if value is not None}
    if before is not UNSET:
        extra["before"] = before
    return Field(description=description, json_schema_extra=extra, **limits)
