"""What a review compares: an experiment, a run directory, a git ref, a YAML file, as a plain resolved tree."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.config.compose import Composer
from lmx.config.earlier import completed, read_frozen
from lmx.config.errors import ConfigError, RequestError
from lmx.config.files import conf_dir
from lmx.config.origins import file_origins
from lmx.review.changes import Side
from lmx.run.config import TrainConfig

CACHE = "~/.cache/lmx/review"
_FOLDERS = ("conf", "lmx", "hydra_plugins")
_COMPOSE = """
import inspect, json, sys
from lmx.config.compose import Composer
from lmx.run.config import TrainConfig
from lmx.config.errors import format_problems
words = json.loads(sys.argv[1])
more = {"elsewhere": True} if "elsewhere" in inspect.signature(Composer).parameters else {}
composed, problems = Composer("train", TrainConfig, overrides=words, **more).check(words)
if composed is None:
    sys.exit(format_problems(problems, "train"))
print(json.dumps({"tree": composed.tree, "origins": composed.origins}))
"""


OF_THE_COMMAND = {"resume": None, "output": "text"}
"""Keys that say how `lmx train` is called, not what a run is."""


def train_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a command's tree that is `lmx train`'s, called plainly."""
    return {key: value for key, value in tree.items() if key in TrainConfig.model_fields} | OF_THE_COMMAND


def composer(**places: Any) -> Composer[TrainConfig]:
    """Of `lmx train`, for another machine."""
    return Composer("train", TrainConfig, **{**places, "elsewhere": True})


def side(name: str, *, overrides: Sequence[str] = (), key: str, **places: Any) -> Side:
    """The configuration that `name` means; RequestError with what is near it where it means none.

    `overrides` are those of the request: a git ref alone is that request as it would have been composed there.
    """
    path = Path(name).expanduser()
    if path.is_dir() and (path / "config.yaml").is_file():
        return Side(name, _plain(path / "config.yaml"), file_origins(path / "config.yaml"))
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return _of_file(path, **places)
    made = composer(**places)
    experiment = name.removeprefix("experiment=")
    if experiment in made.tree.options("experiment"):
        return composed_side(made, [f"experiment={experiment}"], experiment)
    ref, _, experiment = name.partition(":")
    commit = _commit(ref)
    if commit is not None:
        words = [f"experiment={experiment}"] if experiment else list(overrides)
        return _of_commit(name, commit, words)
    names = [n for n in made.tree.options("experiment") if not n.startswith("_")]
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; experiments are {', '.join(names)}"
    raise RequestError(
        f"{key}={name}: no run directory, YAML file, experiment or git ref has this name{hint}"
    )


def composed_side(made: Composer[TrainConfig], words: Sequence[str], label: str) -> Side:
    """What these overrides make; ConfigError where it does not hold."""
    composed, problems = made.check(words)
    if composed is None:
        raise ConfigError(problems, made.command)
    return Side(label, composed.tree, short_origins(composed.origins))


def short_origins(origins: Mapping[str, str]) -> dict[str, str]:
    """With the packaged configuration's folder as `conf`, wherever the command was started."""
    folder = str(conf_dir())
    return {key: origin.replace(folder, "conf") for key, origin in origins.items()}


def _plain(path: Path) -> dict[str, Any]:
    """A resolved tree."""
    return read_frozen(path, TrainConfig)


def _of_file(path: Path, **places: Any) -> Side:
    """A resolved `config.yaml`, or an experiment: one begins with `# @package _global_`."""
    if not path.read_text(encoding="utf-8").lstrip().startswith("# @package _global_"):
        return Side(str(path), _plain(path), file_origins(path))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "experiment").mkdir()
        shutil.copy(path, Path(folder) / "experiment" / "reviewed_file.yaml")
        made = composer(**{**places, "config_dir": folder})
        found = composed_side(made, ["experiment=reviewed_file"], str(path))
        copied = os.path.join(folder, "experiment", "reviewed_file.yaml")
        origins = {key: origin.replace(copied, str(path)) for key, origin in found.origins.items()}
    return found._replace(origins=origins)


def _git(*words: str) -> subprocess.CompletedProcess[bytes] | None:
    root = Path(__file__).resolve().parents[2]
    try:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _commit(ref: str) -> str | None:
    done = _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}") if ref else None
    return done.stdout.decode().strip() if done is not None and done.returncode == 0 else None


def last_commit(path: Path) -> str | None:
    """The last commit that changed a file; None where git knows none."""
    done = _git("log", "-1", "--format=%H", "--", str(path.absolute()))
    return (done.stdout.decode().strip() or None) if done is not None and done.returncode == 0 else None


def _of_commit(label: str, commit: str, words: Sequence[str]) -> Side:
    """Composed by the code of that commit: its schema may have been another."""
    folder = Path(CACHE).expanduser() / commit
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{commit}.", dir=folder.parent))
        archive = _git("archive", commit, *_FOLDERS)
        if archive is None or archive.returncode:
            raise RequestError(f"{label}: git archive {commit[:12]} failed; has it {', '.join(_FOLDERS)}?")
        subprocess.run(["tar", "-x", "-C", str(partial)], input=archive.stdout, check=True)
        try:
            partial.rename(folder)
        except OSError:  # another review was first
            shutil.rmtree(partial)
    done = subprocess.run(
        [sys.executable, "-c", _COMPOSE, json.dumps(list(words))],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RequestError(
            f"{label}: what is asked for cannot be composed at that commit:\n{done.stderr.strip()}"
        )
    told = json.loads(done.stdout)
    strip = str(folder) + os.sep
    origins = {key: origin.replace(strip, "") for key, origin in told["origins"].items()}
    return Side(label, completed(told["tree"], TrainConfig), origins)
