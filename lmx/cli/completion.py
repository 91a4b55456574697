"""Completion in the shell: commands, Hydra's groups, options and keys, and the values that a key allows."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence

from lmx.cli.commands import available, command, find

_BASH = """_lmx_complete() {
    local IFS=$'\\n'
    local word="${COMP_LINE:0:$COMP_POINT}"
    word="${word##* }"
    COMPREPLY=($(COMP_LINE="${COMP_LINE:0:$COMP_POINT}" lmx -sc query=bash 2>/dev/null))
    # readline replaces only what follows the last of its word breaks (`=` and `:` by default)
    local kept="${word%"${word##*[=:]}"}" i
    if [[ "$COMP_WORDBREAKS" == *=* && -n "$kept" ]]; then
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]="${COMPREPLY[i]#"$kept"}"; done
    fi
}
complete -o nospace -o default -F _lmx_complete lmx
"""

_ZSH = """_lmx_complete() {
    local -a found
    found=("${(@f)$(COMP_LINE="${words[1,CURRENT]}" lmx -sc query=zsh 2>/dev/null)}")
    # nothing known: a file, after the key
    if [[ -n "$found" ]]; then compadd -Q -S '' -- $found; else compset -P '*='; _files; fi
}
compdef _lmx_complete lmx
"""

_FISH = """function __lmx_complete
    set -lx COMP_LINE (commandline -cp)
    set -l found (lmx -sc query=fish 2>/dev/null)
    set -l word (commandline -ct)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else if string match -q '*=*' -- $word
        # nothing known: a file, after the key
        set -l key (string split -m 1 = -- $word)
        string replace -r '^' "$key[1]=" -- (__fish_complete_path $key[2])
    end
end
complete -c lmx -f -a '(__lmx_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def answer(arguments: Sequence[str]) -> int:
    """`lmx --completion SHELL` (or `-sc install=SHELL`) prints a script, `-sc query=SHELL` what may come next."""
    word = arguments[0] if arguments else ""
    action, equals, shell = word.partition("=")
    if not equals:
        action, shell = "install", word
    if action == "uninstall" and shell in SCRIPTS:
        print(
            "complete -r lmx"
            if shell == "bash"
            else "compdef -d lmx"
            if shell == "zsh"
            else "complete -e lmx"
        )
        return 0
    if action not in ("install", "query") or shell not in SCRIPTS:
        print(f"lmx --completion: which of {', '.join(SCRIPTS)}?", file=sys.stderr)
        return 2
    if action == "install":
        print(SCRIPTS[shell], end="")
        return 0
    for candidate in candidates(os.environ.get("COMP_LINE", "")):
        print(candidate.rstrip() if shell == "fish" else candidate)  # fish puts the space itself
    return 0


def candidates(line: str) -> list[str]:
    """What may stand in place of the last word of a command line."""
    words = line.split()
    word = "" if not line or line[-1].isspace() else words.pop()
    before = words[1:]
    name, rest = find(before)
    if name is not None:
        family = _families(before, word, list(available()))
        return sorted({*family, *_in_command(name, rest, word)})
    return _families(before, word, list(available()))


def _families(before: Sequence[str], word: str, names: Sequence[str]) -> list[str]:
    """Commands, and the second words of those of two words."""
    if not before:
        words = [name.split()[0] for name in names]
        return [f"{w} " for w in dict.fromkeys(words) if w.startswith(word)] + [
            f"{flag} " for flag in ("--help", "--version", "--completion") if word and flag.startswith(word)
        ]
    if len(before) == 1:
        seconds = [name.split()[1] for name in names if name.startswith(f"{before[0]} ")]
        return [f"{second} " for second in seconds if second.startswith(word)]
    return []


_FLAGS = (
    "--help",
    "--cfg",
    "--resolve",
    "--multirun",
    "--config-dir",
    "--config-name",
    "--info",
    "--package",
)


def _in_command(name: str, rest: Sequence[str], word: str) -> list[str]:
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    from lmx.cli.arguments import parse
    from lmx.config.compose import Composer

    if word.startswith("-"):
        return [f"{flag} " for flag in _FLAGS if flag.startswith(word)]
    this = command(name)
    try:
        options = parse(this, rest)
        composer = Composer(
            name, this.schema_class(), conf=options.config_path, config_dir=options.config_dir,
            primary=options.config_name, overrides=options.overrides,
        )  # fmt: skip
        overrides, plugin = options.overrides, DefaultCompletionPlugin(composer.tree.loader)
        found = plugin._query(composer.place.primary, " ".join([*overrides, word or " "]))
    except Exception:
        return []
    if word.startswith(("resume=", "from=")):
        return [f"{run} " for run in _runs(word)]
    values = _values(composer, overrides, word)
    if values:
        return [f"{value} " for value in values]
    if not word.lstrip("+~").startswith("hydra"):
        found = [item for item in found if not item.lstrip("+~").startswith("hydra")]
    found = [item for item in found if "=_" not in item]  # what options build upon is no option
    chosen = "=" in word
    return [f"{item} " if chosen and not item.endswith("/") else item for item in found]


def _runs(word: str) -> list[str]:
    """`resume=RUN` for each run directory under runs/ and sweeps/, or under the folder that the word names."""
    key, _, start = word.partition("=")
    places = ["runs/*", "sweeps/*/*"] if "/" not in start else [f"{start}*", f"{start}*/*", f"{start}*/*/*"]
    found = {os.path.dirname(path) for place in places for path in glob.glob(f"{place}/config.yaml")}
    return [f"{key}={run}" for run in sorted(found, reverse=True) if run.startswith(start)]


def _values(composer, overrides: Sequence[str], word: str) -> list[str]:
    """`key=value` for each value that a choice or a boolean allows."""
    from omegaconf import OmegaConf

    from lmx.config.errors import show_value
    from lmx.config.overrides import parse_overrides, sort_overrides
    from lmx.config.schema import is_optional, literals, spot_of

    key, equals, start = word.lstrip("+").partition("=")
    if not equals or composer.tree.is_group(key):
        return []
    parsed, _ = parse_overrides(composer.tree, overrides)
    kinds, _ = sort_overrides(composer.tree, parsed, composer.compose(()).choices)
    composition = composer.compose([o.input_line or "" for o in kinds.groups])
    tree = OmegaConf.to_container(composition.cfg, resolve=False) if composition.cfg is not None else {}
    spot = spot_of(composer.schema, key, tree)
    if spot is None:
        return []
    choices = [show_value(value) for value in literals(spot.annotation)]
    if choices and is_optional(spot.annotation):
        choices.append("null")
    prefix = word[: len(word) - len(start)]
    return [f"{prefix}{choice}" for choice in choices if choice.startswith(start)]
