"""JSON Schemas of the configuration files, for editors: completion, hover texts and checks while typing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, WithJsonSchema
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from lmx.config.component import Component, Config
from lmx.config.fixes import public_name
from lmx.config.schema import alternatives, fields_of, subclasses

_DIALECT = "http://json-schema.org/draft-07/schema#"
_INTERPOLATION = {"type": "string", "pattern": r"^.*\$\{.*$"}
_NUMBER = {"type": "string", "pattern": r"^\s*[+-]?[\d.][\d_.]*([eE][+-]?\d+)?\s*\S*|^.*\$\{.*$"}
_MISSING = {"const": "???"}
# Limits that stand after a validator of one's own, as those of lmx.config.types do, keep pydantic's names.
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


class Builder:
    """Collects the definitions of the classes that one file's schema refers to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def of(self, annotation: Any, metadata: Iterable[Any] = ()) -> dict[str, Any]:
        """The schema of a value of this type; an interpolation is allowed anywhere."""
        parts: list[dict[str, Any]] = []
        for part in _members(annotation, tuple(metadata)):
            parts += [p for p in self._alternative(part) if p not in parts]
        if _INTERPOLATION not in parts and _NUMBER not in parts:
            parts.append(_INTERPOLATION)
        parts.append(_MISSING)
        return {"anyOf": parts}

    def _alternative(self, annotation: Any) -> list[dict[str, Any]]:
        bare = alternatives(annotation)[0]
        origin, args = get_origin(bare) or bare, get_args(bare)
        if isinstance(bare, type) and issubclass(bare, Config):
            return [{"$ref": f"#/definitions/{self.define(cls)}"} for cls in concrete(bare)]
        if origin is Literal:
            return [{"enum": list(args)}]
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return [{"type": "object", "additionalProperties": self.of(args[1]) if len(args) > 1 else True}]
        if origin in (list, tuple, set, frozenset):
            return [{"type": "array", "items": self.of(args[0]) if args else True}]
        if bare is type(None):
            return [{"type": "null"}]
        if bare is str:
            return [{"type": ["string", "number"]}]
        try:
            plain = TypeAdapter(annotation).json_schema()
        except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
            return [{}]
        if plain.get("type") not in ("integer", "number"):
            return [plain]
        return [{_LIMITS.get(name, name): value for name, value in plain.items()}, _NUMBER]

    def define(self, cls: type[Config]) -> str:
        """Adds a class to the definitions; its name there."""
        name = public_name(cls)
        if name in self.definitions:
            return name
        self.definitions[name] = {}
        self.definitions[name] = self.mapping(cls)
        return name

    def mapping(self, cls: type[Config]) -> dict[str, Any]:
        """The schema of a class. Nothing is required: a file may set some keys and leave others to another."""
        properties: dict[str, Any] = {}
        if issubclass(cls, Component):
            names = dict.fromkeys([public_name(cls), f"{cls.__module__}.{cls.__qualname__}"])
            properties["_target_"] = {"enum": list(names), "description": "the class of this option"}
        for key, info in fields_of(cls).items():
            extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            notes = [info.description or "", f"Unit: {extra['unit']}" if extra.get("unit") else ""]
            notes.append(f"A change affects {extra.get('effect', 'numerics')}")
            properties[key] = {
                "description": ". ".join(note for note in notes if note) + ".",
                **self.of(info.annotation, info.metadata),
            }
        properties["defaults"] = {"type": "array", "description": "files that this one builds upon"}
        doc = (cls.__doc__ or "").strip().splitlines()
        return {
            "type": "object",
            "title": cls.__name__,
            "description": doc[0] if doc else "",
            "properties": properties,
            "additionalProperties": False,
        }


def concrete(cls: type[Config]) -> list[type[Config]]:
    """The classes that may stand where `cls` is asked for: itself, or what derives from it."""
    if not issubclass(cls, Component):
        return [cls]
    return [c for c in subclasses(cls) if not c.__subclasses__()]


def _members(annotation: Any, metadata: tuple[Any, ...]) -> list[Any]:
    """The members of a union with their constraints, which `alternatives` would drop."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _members(inner, (*more, *metadata))
    if any(isinstance(note, WithJsonSchema) for note in metadata):
        return [Annotated[annotation, *metadata]]
    if len(alternatives(annotation)) > 1 and get_origin(annotation) is not Literal:
        return [member for part in get_args(annotation) for member in _members(part, ())]
    return [Annotated[annotation, *metadata] if metadata else annotation]


def group_schema(
    title: str, annotations: Iterable[Any], roots: Iterable[type[Config]] = ()
) -> dict[str, Any]:
    """The schema of every option file of a group, which several commands may type differently.

    `roots`: what files that set keys of the whole configuration (`# @package _global_`) set keys of.
    """
    builder = Builder()
    found: list[dict[str, Any]] = []
    for annotation in annotations:
        for part in _members(annotation, ()):
            found += [p for p in builder._alternative(part) if p not in found and p != {"type": "null"}]
    found += [_whole(builder, root) for root in roots]
    return {"$schema": _DIALECT, "title": title, "anyOf": found, "definitions": builder.definitions}


def root_schema(title: str, roots: Iterable[type[Config]]) -> dict[str, Any]:
    """The schema of a primary configuration, or of an experiment of several commands."""
    builder = Builder()
    forms = [_whole(builder, root) for root in roots]
    return {"$schema": _DIALECT, "title": title, "anyOf": forms, "definitions": builder.definitions}


def _whole(builder: Builder, root: type[Config]) -> dict[str, Any]:
    form = builder.mapping(root)
    form["properties"]["hydra"] = {"type": "object", "description": "Hydra's own configuration"}
    return form


def is_global(path: Path) -> bool:
    """Whether a file of a group sets keys of the whole configuration: a preset, an experiment."""
    with open(path, encoding="utf-8") as lines:
        return lines.readline().split() == ["#", "@package", "_global_"]


def all_schemas(roots: Mapping[str, type[Config]], folder: Path) -> dict[str, dict[str, Any]]:
    """File name without ending -> schema, for each primary configuration and each group under `folder`.

    roots   name of the primary configuration -> root class
    """
    found = {name: root_schema(f"conf/{name}.yaml", [root]) for name, root in roots.items()}
    train = [root for name, root in roots.items() if name == "train"] or list(roots.values())
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and p.name != "hydra"):
        types: list[Any] = []
        for root in roots.values():
            info = fields_of(root).get(path.name)
            if info is not None and info.annotation not in types:
                types.append(info.annotation)
        if types:
            presets = any(is_global(file) for file in path.glob("*.yaml"))
            found[path.name] = group_schema(f"conf/{path.name}", types, train if presets else ())
    if (folder / "experiment").is_dir():
        found["experiment"] = root_schema("conf/experiment", train)
    return found
