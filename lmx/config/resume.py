"""Going on with a run: its frozen configuration, the changes asked for, and which of them are allowed."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf, open_dict

from lmx.config.apply import apply_values
from lmx.config.component import Config
from lmx.config.compose import Composed, Composer, unique
from lmx.config.earlier import read_frozen
from lmx.config.errors import UNSET, ConfigError, Problem, RequestError, show_value
from lmx.config.findings import Findings
from lmx.config.groups import Composition
from lmx.config.origins import Origins, command_line, file_origins, origin_of, set_by_override
from lmx.config.overrides import Sorted, parse_overrides, sort_overrides
from lmx.config.plain_tree import plain
from lmx.config.report import explain
from lmx.config.resolve import resolve
from lmx.config.schema import Difference, differences, pick
from lmx.config.sources import Tree, peek_yaml
from lmx.config.validate import contradictions, faults, validate

Schema = TypeVar("Schema", bound=Config)


def load_resumed(
    run_dir: str | Path,
    overrides: Sequence[str] = (),
    schema: type[Schema] = Config,
    *,
    command: str = "train",
    extendable: Sequence[str] = (),
    **places: Any,
) -> Composed[Schema]:
    """The configuration of the run in `run_dir` with `overrides` applied onto it; nothing is composed anew.

    A change of a key whose effect is `numerics` is refused, showing old -> new, unless a pattern of
    `extendable` matches it (`trainer.steps`, `trainer.*`). `places` are `conf`, `config_dir` and `primary` of
    `Composer`: the files in which a newly chosen option is looked up. ConfigError with every problem;
    RequestError where `run_dir` is not the directory of a run.
    """
    path = Path(run_dir) / "config.yaml"
    frozen = _frozen(Path(run_dir), path, schema)
    composer = Composer(command, schema, overrides=overrides, **places)
    parsed, problems = parse_overrides(composer.tree, overrides)
    parsed = [o for o in parsed if o.key_or_group != "resume"]
    base = composer.compose(())
    kinds, wrong = sort_overrides(composer.tree, parsed, base.choices)
    problems += wrong
    cfg = OmegaConf.create(frozen)
    origins = file_origins(path)
    problems += _choose_options(composer, cfg, kinds, origins)
    composition = Composition(cfg, choices=base.choices)
    changed, wrong = apply_values(cfg, kinds.values, schema)
    for override in kinds.values:
        set_by_override(origins, override)
    resolved = resolve(changed)
    checked = validate(schema, resolved.tree)
    raw = [*wrong, *resolved.problems, *checked.problems]
    if checked.config is not None and not raw:
        raw += contradictions(checked.config)
    raw += faults(schema, resolved.tree)
    if raw or problems:
        found = Findings(composer.tree, schema, base, composer.compose, kinds.dropped)
        raise ConfigError(
            unique(problems + explain(found, raw, resolved, composition, kinds, origins)), command
        )
    assert checked.config is not None
    tree = plain(checked.config, resolved.tree)
    refused = _refused(frozen, tree, schema, extendable, origins, composer.tree)
    if refused:
        raise ConfigError(refused, command)
    if "resume" in tree:
        tree["resume"] = str(run_dir)
    config = schema.model_validate(tree)
    lines = [o.input_line or "" for o in parsed if not o.is_hydra_override()]
    return Composed(config, plain(config, tree), lines, schema, lambda: origins)


def _frozen(run_dir: Path, path: Path, schema: type[Config]) -> dict[str, Any]:
    if not run_dir.is_dir():
        near = sorted(
            str(p.parent)
            for p in Path(run_dir.parent if run_dir.parent.is_dir() else ".").glob("*/config.yaml")
        )
        hint = f"; runs there: {', '.join(near[-3:])}" if near else ""
        what = (
            "this is a file, not the directory of a run" if run_dir.exists() else "there is no such directory"
        )
        raise RequestError(f"resume={run_dir}: {what}{hint}")
    if not path.is_file():
        raise RequestError(f"resume={run_dir}: this is not the directory of a run: it holds no config.yaml")
    try:
        return read_frozen(path, schema)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(f"resume={run_dir}: config.yaml cannot be read: {reason}") from error


def _choose_options(composer: Composer, cfg: Any, kinds: Sorted, origins: Origins) -> list[Problem]:
    """Puts newly chosen options in place of the frozen ones; the problems of those that cannot be."""
    problems: list[Problem] = []
    for override in kinds.groups:
        problem = _choose_option(composer, cfg, override, origins)
        if problem is not None:
            problems.append(problem)
    return problems


def _choose_option(composer: Composer, cfg: Any, override: Override, origins: Origins) -> Problem | None:
    line, package = override.input_line or "", override.key_or_group.replace("/", ".")
    if package not in cfg:
        message = (
            "a resumed run goes on with its own configuration, and this choice reaches over all of it; "
            "set the keys that should change"
        )
        return Problem(override.key_or_group, message, override.value(), command_line(line), kind="resume")
    composition = composer.compose([line])
    if composition.cfg is None or composition.problems:
        return composition.problems[0] if composition.problems else None
    with open_dict(cfg):
        cfg[package] = composition.cfg._get_node(package)
    for key in [k for k in origins if k == package or k.startswith(f"{package}.")]:
        del origins[key]
    origins[package] = command_line(line)
    return None


def preventing(
    old: Mapping[str, Any], new: Mapping[str, Any], schema: type[Config], extendable: Sequence[str]
) -> list[Difference]:
    """The differences for which a run with `old` cannot go on with `new`."""
    return [
        difference
        for difference in differences(old, new, schema)
        if difference.effect == "numerics" and not any(fnmatch.fnmatch(difference.key, p) for p in extendable)
    ]


def _refused(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    schema: type[Config],
    extendable: Sequence[str],
    origins: Origins,
    files: Tree,
) -> list[Problem]:
    """A problem for each difference that would change what the run computes.

    Where a node has become another class, that is the difference, and none of its keys is named.
    """
    problems = []
    changed = preventing(old, new, schema, extendable)
    nodes = [d.key.removesuffix("._target_") for d in changed if d.key.endswith("._target_")]
    for difference in changed:
        key = difference.key.removesuffix("._target_")
        before, after = show_value(difference.old), show_value(difference.new)
        if key in nodes and key != difference.key:
            before, after = (_option_of(files, key, str(c)) for c in (difference.old, difference.new))
        elif any(key.startswith(f"{node}.") for node in nodes):
            continue
        before, after = ("(not set)" if text == repr(UNSET) else text for text in (before, after))
        message = (
            f"a resumed run cannot change this: {key}: {before} -> {after}\n"
            "leave it out to go on with the run as it is, or make another run for it: a new one (without "
            "resume=), or one that goes on from here with the change (lmx fork)"
        )
        value = UNSET if difference.new is UNSET or key in nodes else difference.new
        problems.append(Problem(key, message, value, origin_of(origins, key), kind="resume"))
    return problems


def _option_of(files: Tree, node: str, target: str) -> str:
    """The option of a group that is of the class `target`; the class where none, or no single one, is."""
    group = node.replace(".", "/")
    options = files.options(group) if files.is_group(group) else []
    of_class = [o for o in options if pick(peek_yaml(files.file(f"{group}/{o}")), "_target_") == target]
    named = [o for o in of_class if o.replace("_", "") == target.rpartition(".")[2].lower()]
    found = named or of_class
    return found[0] if len(found) == 1 else target
