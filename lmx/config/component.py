"""What every configuration class is: frozen, without defaults, refusing unknown keys.

Values live in YAML alone; a class says names, types, units and meaning. Importing a configuration class
never imports jax: `build` imports what it needs when it is called, so help, completion and configuration
errors answer at once.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator
from pydantic_core import PydanticCustomError

Effect = Literal["numerics", "throughput", "bookkeeping"]


class Config(BaseModel):
    """A node of the configuration tree with a fixed set of keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True
    )


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
        return handler(data) if found is cls else found.model_validate(data)


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
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise PydanticCustomError(
            "target_unknown",
            "_target_ {target} cannot be imported: {error}",
            {"target": target, "error": str(error), "base": expected},
        ) from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PydanticCustomError(
            "target_refused",
            "_target_ {target} is not a subclass of {base}",
            {"target": target, "base": expected},
        )
    return found


def field(description: str, *, effect: Effect = "numerics", unit: str | None = None, **limits: Any) -> Any:
    """A required key: its meaning, its unit, and what a change of it affects.

    `effect` is `numerics` (the result of a run changes), `throughput` (only its speed or memory does) or
    `bookkeeping` (neither does); a resumed run accepts changes of the last two.
    """
    extra: Any = {"effect": effect} | ({"unit": unit} if unit else {})
    return Field(description=description, json_schema_extra=extra, **limits)
