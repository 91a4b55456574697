"""`lmx runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run(composed: Any, run_dir: Path) -> None:
    """Lists runs, compares them, or draws their losses."""
    from lmx.config.errors import requests
    from lmx.config.text import counted
    from lmx.io.files import to_json
    from lmx.review import runs, runs_text
    from lmx.review.runs_config import as_list

    config = composed.config
    roots, as_json = as_list(config.root), config.output == "json"
    with requests():
        if config.compare is not None:
            found = runs.compare(runs.select(as_list(config.compare), roots))
            if as_json:
                print(to_json(runs_text.comparison_json(found), indent=2))
            else:
                runs_text.print_comparison(found)
        elif config.plot is not None:
            chosen = runs.select(as_list(config.plot), roots)
            runs.plot(chosen, Path(config.to), axis=config.x)
            drawn = {"picture": config.to, "runs": [str(path) for path in chosen]}
            print(
                to_json(drawn, indent=2) if as_json else f"{counted(len(chosen), 'run')} drawn: {config.to}"
            )
        else:
            listed = runs.list_runs(roots, match=config.match, sort=config.sort)
            if as_json:
                print(to_json([line._asdict() for line in listed], indent=2))
            elif listed:
                runs_text.print_list(listed)
            else:
                print(f"no runs in {', '.join(roots)}")


def show(composed: Any, run_dir: Path) -> None:
    """Prints the life of a run."""
    from lmx.config.errors import requests
    from lmx.io.files import to_json
    from lmx.review import life, runs
    from lmx.review.runs_config import as_list

    config = composed.config
    with requests():
        for path in runs.select([config.run], as_list(config.root)):
            found = life.of(path)
            print(to_json(life.as_json(found), indent=2) if config.output == "json" else life.text(found))


def leaderboard(composed: Any, run_dir: Path) -> None:
    """Renews a leaderboard from the runs on disk, and prints it."""
    from lmx.config.errors import RequestError, requests
    from lmx.config.schema import effect_of
    from lmx.io.files import to_json
    from lmx.review import leaderboard, runs
    from lmx.review.runs_config import as_list
    from lmx.run.config import TrainConfig

    config = composed.config
    folder = Path(config.experiments) / config.name
    path = Path(config.to) if config.to is not None else folder / "leaderboard.json"
    if not path.parent.is_dir():
        raise RequestError(f"name={config.name}: there is no folder {path.parent}; to=FILE names one")

    def counts(key: str, tree: Any) -> bool:
        try:
            return effect_of(TrainConfig, key, tree) != "bookkeeping"
        except KeyError:
            return True

    with requests():
        found = runs.find_runs(as_list(config.root))
        new = leaderboard.entries(found, config.name, target=config.loss, counts=counts)
        lines = leaderboard.renewed(leaderboard.read(path, config.name, config.loss), new)
        if not lines:
            raise RequestError(
                f"name={config.name}: none of its runs under {', '.join(as_list(config.root))} is done "
                "with an evaluation"
            )
        leaderboard.write(path, config.name, config.loss, lines)
    arms = leaderboard.arms(lines, config.loss)
    if config.output == "json":
        print(to_json({"file": str(path), "arms": [arm._asdict() for arm in arms]}, indent=2))
    else:
        print(leaderboard.markdown(config.name, config.loss, arms), end="")


def fit(composed: Any, run_dir: Path) -> None:
    """Fits a scaling law to the runs on disk, and prints it."""
    from lmx.config.errors import requests
    from lmx.io.files import to_json
    from lmx.review import law, law_text, runs
    from lmx.review.runs_config import as_list

    config = composed.config
    with requests():
        roots = as_list(config.root)
        told = law.points_of(runs.select(as_list(config.against), roots))
        points = law.points_of(runs.find_runs(roots))
        found = law.fit(points, against=told, draws=config.draws, seed=config.seed)
        if config.to is not None:
            law_text.draw(found, Path(config.to))
    print(to_json(law_text.as_json(found), indent=2) if config.output == "json" else law_text.text(found))


COMMANDS = (
    Command(
        name="runs fit",
        summary="a scaling law from runs, and what it foretells",
        schema="lmx.review.runs_config:RunsFit",
        function=fit,
        keys=("root", "against", "draws", "seed", "to", "output"),
        examples=(
            ("lmx runs fit root=sweeps/DIR to=isoflop.png", "isoFLOP minima, exponents, a picture"),
            (
                "lmx runs fit root=sweeps/DIR against=runs/LARGER",
                "what it says of a run, and what that reached",
            ),
        ),
    ),
    Command(
        name="runs leaderboard",
        summary="renew the leaderboard of an experiment: time to a target loss, over seeds",
        schema="lmx.review.runs_config:RunsLeaderboard",
        function=leaderboard,
        keys=("name", "loss", "root", "to", "output"),
        examples=(
            (
                "lmx runs leaderboard speedrun loss=3.28",
                "experiments/speedrun/leaderboard.md, from runs and sweeps",
            ),
            ("lmx runs leaderboard mine loss=1.5 root=sweeps/DIR to=board.json", "of one sweep, elsewhere"),
        ),
        positional="name",
    ),
    Command(
        name="runs show",
        summary="the life of a run: attempts, data seen, where the time went",
        schema="lmx.review.runs_config:RunsShow",
        function=show,
        keys=("run", "root", "output"),
        examples=(
            ("lmx runs show runs/RUN", "its attempts, what its model has seen, its goodput"),
            ("lmx runs show RUN output=json", "the same as JSON; a run by its folder's name"),
        ),
        positional="run",
    ),
    Command(
        name="runs",
        summary="list, compare and plot runs",
        schema="lmx.review.runs_config:Runs",
        function=run,
        keys=("root", "match", "sort", "compare", "plot", "to", "x", "output"),
        examples=(
            ("lmx runs", "every run under runs/ and sweeps/, the newest first"),
            ("lmx runs sweeps/DIR sort=eval_loss", "a sweep, the best first"),
            ("lmx runs compare=[A,B]", "what differs in config, what differs in result"),
            ("lmx runs plot=[A,B,C] to=loss.png x=tokens", "their losses in one picture"),
            ("lmx runs plot='runs/*muon*' output=json", "runs by a pattern; the answer as JSON"),
        ),
        positional="root",
    ),
)
