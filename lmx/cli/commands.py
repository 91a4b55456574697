"""Every command of `lmx`: the table, and how the words of a command line find their command."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lmx.cli.command import Command


class Entry(NamedTuple):
    """A line of the dispatch table: the module with the command, and what it does."""

    module: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "train": Entry("lmx.cli.train", "train a model, or a sweep of models; go on with a run"),
    "fork": Entry("lmx.cli.fork", "branch a run off a checkpoint of another one, with changes"),
    "launch": Entry("lmx.cli.launch", "start a run on one or many hosts, and look after it"),
    "launch status": Entry("lmx.cli.launch", "what launched runs do"),
    "launch logs": Entry("lmx.cli.launch", "the log of a process of a launched run"),
    "launch stop": Entry("lmx.cli.launch", "end a launched run"),
    "launch attach": Entry("lmx.cli.launch", "follow a launched run, look after it where nobody does"),
    "launch resume": Entry("lmx.cli.launch", "go on with a launched run that was stopped or given up"),
    "eval": Entry("lmx.cli.eval", "loss, perplexity and bits per byte of a checkpoint"),
    "generate": Entry("lmx.cli.generate", "continue prompts with a checkpoint"),
    "chat": Entry("lmx.cli.chat", "a conversation in the terminal"),
    "export": Entry("lmx.cli.export", "write a model as a HuggingFace directory"),
    "review": Entry(
        "lmx.cli.review", "what a configuration will do and cost, and what a change of it changes"
    ),
    "review approve": Entry("lmx.cli.review", "record who has agreed to a run: large launches ask for it"),
    "diff": Entry("lmx.cli.review", "what differs between two configurations, and what follows from it"),
    "compile": Entry("lmx.cli.compile", "compile for devices that are not here, and show what programs take"),
    "tune memory": Entry("lmx.cli.tune", "find the micro-batch and rematerialisation that fit a device"),
    "runs": Entry("lmx.cli.runs", "list, compare and plot runs"),
    "runs show": Entry("lmx.cli.runs", "the life of a run: attempts, data seen, where the time went"),
    "runs leaderboard": Entry(
        "lmx.cli.runs", "renew the leaderboard of an experiment: time to a target loss, over seeds"
    ),
    "runs fit": Entry("lmx.cli.runs", "a scaling law from runs, and what it foretells"),
    "spike": Entry("lmx.cli.spike", "a step of a run once more: which documents, which tokens, which layers"),
    "sweep run": Entry("lmx.cli.sweep", "freeze a sweep of training runs and run it on a pool of pods"),
    "sweep status": Entry("lmx.cli.sweep", "jobs of a sweep, their progress, the time that is left"),
    "sweep resume": Entry("lmx.cli.sweep", "go on with a sweep whose driver was stopped or killed"),
    "sweep cancel": Entry("lmx.cli.sweep", "end the running jobs of a sweep; they save first"),
    "sweep table": Entry("lmx.cli.sweep", "results of a sweep, and which differences are more than noise"),
    "sweep plot": Entry("lmx.cli.sweep", "draw a sweep: the loss by arm, or a parameter against the result"),
    "data prepare": Entry("lmx.cli.data", "tokenise text into shards"),
    "data inspect": Entry("lmx.cli.data", "show batches as training sees them"),
    "tokenizer train": Entry("lmx.cli.tokenizer", "learn a tokenizer from text"),
    "verify resume": Entry("lmx.cli.verify", "prove that a resumed run equals an uninterrupted one"),
    "verify faults": Entry("lmx.cli.verify", "stage every fault, and prove that the run survives it"),
    "verify mesh": Entry("lmx.cli.verify", "prove that meshes agree"),
    "verify width": Entry("lmx.cli.verify", "prove that activations change alike at every width"),
    "verify soak": Entry("lmx.cli.verify", "prove that a long run neither grows nor slows down"),
    "bench train": Entry("lmx.cli.bench", "measure training speed"),
    "bench data": Entry("lmx.cli.bench", "measure how fast the data pipeline alone delivers"),
    "bench start": Entry("lmx.cli.bench", "measure the time from typing `lmx train` to its first step"),
    "bench generate": Entry("lmx.cli.generate", "measure prefill and decoding"),
    "schema": Entry("lmx.cli.schema", "write JSON Schemas, with which editors complete and check the YAML"),
}
"""Every command; one whose primary configuration is not there yet is not shown."""


def command(name: str) -> Command:
    """The `Command` of a name in the table."""
    module = importlib.import_module(COMMANDS[name].module)
    return next(c for c in module.COMMANDS if c.name == name)


def available() -> dict[str, Entry]:
    """The commands whose primary configuration exists."""
    package = Path(__file__).resolve().parents[1]
    folder = package / "conf" if (package / "conf").is_dir() else package.parent / "conf"
    return {name: e for name, e in COMMANDS.items() if (folder / f"{name.replace(' ', '_')}.yaml").is_file()}


def find(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The command that the first words name, and the words after it."""
    names = available()
    for length in (2, 1):
        name = " ".join(arguments[:length])
        if name in names and not _misspelt(name, arguments[length:], names):
            return name, list(arguments[length:])
    if (
        list(arguments[:1]) == ["verify"]
        and "verify mesh" in names
        and any("=" in word for word in arguments[1:])
    ):
        return "verify mesh", list(arguments[1:])  # lmx verify mesh=a,b
    return None, []


def _misspelt(name: str, rest: Sequence[str], names: Mapping[str, Entry]) -> bool:
    """Whether the word after a command's name can only be meant as a command of its family: `lmx launch statsu`."""
    if not rest or "=" in rest[0] or not rest[0].isalpha():
        return False
    members = [other.split()[1] for other in names if other.startswith(f"{name} ")]
    if command(name).positional is None:
        return bool(members)

    import difflib

    return bool(difflib.get_close_matches(rest[0], members))


def unknown(arguments: Sequence[str]) -> str:
    """What to say of a command that does not exist: the nearest one, or the members of its family."""
    import difflib

    names = list(available())
    family = [name for name in names if name.split()[0] == arguments[0] and " " in name]
    if family:
        members = [name.split()[1] for name in family]
        near = difflib.get_close_matches(arguments[1], members, n=1) if len(arguments) > 1 else []
        hint = ", ".join(f"lmx {arguments[0]} {member}" for member in near or members)
        return f"lmx {arguments[0]}: which of {', '.join(members)}?\n    try: {hint}"
    words = [*names, *(name.split()[0] for name in names)]
    near = difflib.get_close_matches(arguments[0], words, n=1, cutoff=0.5)
    hint = f"\n    try: lmx {' '.join([near[0], *arguments[1:]])}" if near else ""
    if "=" in arguments[0] and not near:
        hint = f"\n    try: lmx train {' '.join(arguments)}"
    return f"lmx: there is no command {arguments[0]!r}{hint}\n    commands: {', '.join(names)}"
