"""From a command line to a validated configuration, or to every problem that stands against it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from lmx.config.apply import apply_values, has
from lmx.config.bare import explain_bare
from lmx.config.component import Config
from lmx.config.errors import ConfigError, Problem
from lmx.config.files import conf_dir
from lmx.config.findings import Findings
from lmx.config.fixes import accepted, place
from lmx.config.groups import Composition, compose_groups
from lmx.config.hardware import described, devices_of_topology
from lmx.config.meant import followed
from lmx.config.near import nearest
from lmx.config.origins import Origins, origins_of
from lmx.config.overrides import Sorted, parse_overrides, sort_overrides
from lmx.config.plain_tree import plain, tree_hash
from lmx.config.report import explain
from lmx.config.resolve import Resolved, resolve
from lmx.config.searchpath import check_searchpath
from lmx.config.sources import Place, Tree
from lmx.config.validate import contradictions, faults, validate

Schema = TypeVar("Schema", bound=Config)


@dataclass(frozen=True)
class Composed(Generic[Schema]):
    """A configuration that holds.

    config      the validated object
    tree        plain dicts, lists and scalars, as `config.yaml` keeps them: resolved, `300M` written out
    overrides   the overrides of the command line that made it, Hydra's own left out
    schema      the root class
    find_origins  computes `.origins` when they are asked for
    composer    composes the same command with other overrides; None for a resumed run
    """

    config: Schema
    tree: dict[str, Any]
    overrides: list[str]
    schema: type[Schema]
    find_origins: Callable[[], Origins]
    composer: Composer[Schema] | None = None

    @cached_property
    def origins(self) -> Origins:
        """Full path -> where the value was set."""
        return self.find_origins()

    @cached_property
    def hash(self) -> str:
        """sha256 of the tree without the keys that are bookkeeping: equal for runs that compute the same."""
        return tree_hash(self.tree, self.schema)

    def yaml(self) -> str:
        """The tree as YAML text; OmegaConf and `read_tree` read it back unchanged."""
        return yaml.safe_dump(self.tree, sort_keys=False, allow_unicode=True, width=110)


def load(
    command: str,
    overrides: Sequence[str] = (),
    *,
    schema: type[Schema],
    conf: str | Path | None = None,
    config_dir: str | Path | None = None,
    primary: str | None = None,
) -> Composed[Schema]:
    """Composes `conf/<command>.yaml` with `overrides`; ConfigError with every problem where it does not hold.

    `conf` is the folder of the primary configuration (the packaged one), `config_dir` one more to search,
    `primary` the name of the primary file where it is not the command's.
    """
    composer = Composer(
        command, schema, conf=conf, config_dir=config_dir, primary=primary, overrides=overrides
    )
    composed, problems = composer.check(overrides)
    if composed is None:
        raise ConfigError(problems, command)
    return composed


class Composer(Generic[Schema]):
    """Composes one command's configuration again and again: once, or for each point of a sweep."""

    def __init__(
        self,
        command: str,
        schema: type[Schema],
        *,
        conf: str | Path | None = None,
        config_dir: str | Path | None = None,
        primary: str | None = None,
        overrides: Sequence[str] = (),
        elsewhere: bool = False,
    ) -> None:
        """`overrides` serve to find hydra.searchpath alone; ConfigError where a search path does not exist.

        `elsewhere`: the configuration is for another machine. Files that are not on this one are no problem, and a
        text that must be given (`data.path: ???`) may stay open.
        """
        self.command, self.elsewhere = command, elsewhere
        self.schema = schema
        folder = str(Path(conf).resolve()) if conf is not None else str(conf_dir())
        further = str(Path(config_dir).resolve()) if config_dir is not None else None
        self.place = Place(primary or command.replace(" ", "_"), folder, further)
        searchpath = check_searchpath(self.place, overrides, config_dir, command)
        self.tree = Tree(self.place, searchpath)
        if not self.tree.repository.config_exists(self.place.primary):
            names = [name for name in self.tree.options("") if not name.startswith("_")]
            message = f"there is no primary configuration of this name; there are {', '.join(names)}"
            meant = nearest(self.place.primary, names)
            fix = f"--config-name {meant}" if meant else None
            key = f"--config-name {self.place.primary}"
            raise ConfigError([Problem(key, message, fix=fix, kind="primary")], command)
        self._compositions: dict[tuple[str | None, ...], Composition] = {}
        self._by_devices: set[tuple[str | None, ...]] = set()  # those in which an option was chosen by them

    def compose(self, groups: Sequence[str], devices: str | None = None) -> Composition:
        """The tree before overrides of values; the same object for the same choices.

        `devices`: those that options are chosen by; None: those here.
        """
        key, here = (devices, *groups), (None, *groups)
        if here in self._compositions and here not in self._by_devices:
            return self._compositions[here]
        if key not in self._compositions:
            with described(devices) as told:
                self._compositions[key] = compose_groups(self.tree, groups)
            if told.asked:
                self._by_devices.add(key)
        return self._compositions[key]

    def devices(self, overrides: Sequence[str]) -> str | None:
        """The devices of `topology`, by which options are chosen; None where the command or its line has none."""
        if "topology" not in self.schema.model_fields:
            return None
        parsed, _ = parse_overrides(self.tree, overrides)
        kinds, _ = sort_overrides(self.tree, parsed, self.compose(()).choices)
        made = self.compose([o.input_line or "" for o in [*kinds.groups, *kinds.hydra]])
        if made.cfg is None:
            return None
        cfg, _ = apply_values(made.cfg, kinds.values, self.schema)
        told = OmegaConf.to_container(cfg, resolve=False)
        assert isinstance(told, dict)
        slices = told.get("slices")
        return devices_of_topology(str(told.get("topology")), slices if isinstance(slices, int) else 1)

    def check(
        self, overrides: Sequence[str], job: Mapping[str, Any] | None = None
    ) -> tuple[Composed[Schema] | None, list[Problem]]:
        """The configuration, or None and every problem. `job`: values of hydra.job, in a sweep."""
        parsed, problems = parse_overrides(self.tree, overrides)
        if any(problem.kind == "syntax" for problem in problems):
            problems = self.followed(problems, [o.input_line or "" for o in parsed])
        base = self.compose(())
        found = Findings(self.tree, self.schema, base, self.compose)
        problems += base.problems
        if base.cfg is None:
            return None, problems
        if any(problem.kind == "bare" for problem in problems):
            problems = explain_bare(
                problems, self.schema, _resolve_job(copy.deepcopy(base.cfg), base, job).tree
            )
        kinds, wrong = sort_overrides(self.tree, parsed, base.choices)
        problems += wrong
        groups = [o.input_line or "" for o in [*kinds.groups, *kinds.hydra]]
        composition = self.compose(groups, self.devices(overrides))
        if composition is not base:
            problems += composition.problems
        if composition.cfg is None:
            return None, problems
        found.dropped = {**kinds.dropped, **{group: None for group in composition.failed}}
        cfg, wrong = apply_values(composition.cfg, kinds.values, self.schema)
        resolved = self._open(_resolve_job(cfg, composition, job))
        checked = validate(self.schema, resolved.tree)
        raw = [*wrong, *resolved.problems, *checked.problems]
        if checked.config is not None and not raw:
            raw += contradictions(checked.config)
        raw += self._faults(resolved.tree)
        lines = [o.input_line or "" for o in parsed if not o.is_hydra_override()]
        find = _origin_finder(self.tree, composition, kinds)
        if raw or problems:
            return None, unique(problems + explain(found, raw, resolved, composition, kinds, find()))
        assert checked.config is not None
        tree = plain(checked.config, resolved.tree)
        return Composed(checked.config, tree, lines, self.schema, find, self), []

    def for_hydra(self, overrides: Sequence[str]) -> list[str]:
        """The sound `overrides` of a command line as Hydra takes them, which sets only what a file sets already.

        A key below one that is null (`trainer.profile.start=3`), and a mapping that may bring further keys
        (`mesh.axes={data:2,context:2}`), have `++` before them.
        """
        cfgs = [made.cfg for made in self._compositions.values() if made.cfg is not None]
        return [f"++{line}" if _adds(line, cfgs) else line for line in overrides]

    def followed(self, problems: Sequence[Problem], overrides: Sequence[str]) -> list[Problem]:
        """Words that were no override, with what is wrong with the override that was meant."""
        return followed(problems, lambda meant: self.check([*overrides, meant])[1])

    def _faults(self, tree: Mapping[str, Any]) -> list[Problem]:
        return [] if self.elsewhere else faults(self.schema, tree)

    def _open(self, resolved: Resolved) -> Resolved:
        """With `elsewhere`, what must be given and may be any text is `???`."""
        if not self.elsewhere:
            return resolved
        missing = [p.key for p in resolved.problems if p.kind == "missing"]
        filled = {key for key in missing if accepted(self.schema, resolved.tree, key, "???")}
        tree = resolved.tree
        for key in filled:
            tree = place(tree, key, "???")
        return resolved._replace(tree=tree, problems=[p for p in resolved.problems if p.key not in filled])

    def of_job(self, cfg: DictConfig, overrides: Sequence[str]) -> Composed[Schema]:
        """The configuration that Hydra composed for a job; ConfigError where it does not hold.

        Hydra chooses by the devices here: where the command has a `topology`, it is composed again.
        """
        if "topology" in self.schema.model_fields:
            composed, problems = self.check(overrides)
            if composed is None:
                raise ConfigError(problems, self.command)
            return composed
        resolved = self._open(resolve(cfg))
        checked = validate(self.schema, resolved.tree)
        wrong = [*resolved.problems, *checked.problems, *self._faults(resolved.tree)]
        if wrong or checked.config is None or contradictions(checked.config):
            _, problems = self.check(overrides)
            raise ConfigError(problems or wrong, self.command)

        def find() -> Origins:
            composed, _ = self.check(overrides)
            return composed.origins if composed is not None else {}

        return Composed(
            checked.config, plain(checked.config, resolved.tree), list(overrides), self.schema, find, self
        )


def _origin_finder(tree: Tree, composition: Composition, kinds: Sorted) -> Callable[[], Origins]:
    return lambda: origins_of(tree, composition.defaults, kinds.values)


def _resolve_job(cfg: DictConfig, composition: Composition, job: Mapping[str, Any] | None) -> Resolved:
    """Resolves the job's part of a configuration, with Hydra's own part at hand for `${hydra:...}`."""
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    whole = copy.deepcopy(composition.cfg)
    assert whole is not None
    with open_dict(whole):
        for name, value in (job or {}).items():
            whole.hydra.job[name] = value
    try:
        hydra_config.set_config(whole)
        with open_dict(cfg):
            cfg.pop("hydra", None)
        return resolve(cfg)
    finally:
        hydra_config.cfg = before


def unique(problems: Sequence[Problem]) -> list[Problem]:
    """The problems, each once."""
    seen: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        seen.setdefault((problem.key, problem.message), problem)
    return list(seen.values())


_PLAIN = re.compile(r"(?!hydra\.)[A-Za-z_][\w.]*(?==)")
"""The key of an override of a value, or of a group, that has no sign before it."""


def _adds(line: str, cfgs: Sequence[DictConfig]) -> bool:
    """Whether the override brings a key that one of the compositions lacks, or a mapping."""
    key = _PLAIN.match(line)
    if key is None:
        return False
    return line[key.end() + 1 :].startswith("{") or (
        "." in key[0] and not all(has(cfg, key[0]) for cfg in cfgs)
    )
