"""What training will see: batches decoded, with segments and weights, and how full the rows are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmx.config.text import counted
from lmx.data.dataset import Dataset, row
from lmx.data.tokenizers import TokenizerImpl
from lmx.types import Batch

STYLES = ("cyan", "green", "yellow", "magenta", "blue", "red")


def spans(one: Batch, tokenizer: TokenizerImpl) -> list[dict[str, Any]]:
    """A row [T] in stretches of one segment and one weight: where, how long, and their text.

    The weight of an input is that of its target. Padding has segment 0.
    """
    length = len(one.tokens)
    if one.segments is None:
        filled = np.flatnonzero(one.weights)
        segments = (np.arange(length) <= (filled[-1] if len(filled) else -1)).astype(int)
    else:
        segments = one.segments
    changes = np.flatnonzero((np.diff(segments) != 0) | (np.diff(one.weights) != 0)) + 1
    found = []
    for start, stop in zip([0, *changes], [*changes, length], strict=True):
        segment = int(segments[start])
        found.append(
            {
                "segment": segment,
                "weight": float(one.weights[start]),
                "start": int(start),
                "tokens": int(stop - start),
                "text": tokenizer.decode(one.tokens[start:stop]) if segment else "",
            }
        )
    return found


def fill(side: Any, sample: int) -> dict[str, Any]:
    """How much of evenly spread rows is text, how much is learnt, and how many segments they have."""
    count = min(sample, len(side))
    places = inputs = learnt = segments = 0
    for i in range(count):
        one = row(side, i * len(side) // count if len(side) < 2**40 else i)
        places += len(one.tokens)
        learnt += int(np.count_nonzero(one.weights))
        if one.segments is None:
            filled = np.flatnonzero(one.weights)
            inputs += int(filled[-1]) + 1 if len(filled) else 0
            segments += 1
        else:
            inputs += int(np.count_nonzero(one.segments))
            segments += int(one.segments.max())
    return {
        "rows": count,
        "fill": round(inputs / places, 4),
        "learnt": round(learnt / places, 4),
        "segments_per_row": round(segments / count, 2),
    }


def inspect(
    dataset: Dataset,
    tokenizer: TokenizerImpl,
    *,
    side: str,
    global_batch_size: int,
    step: int,
    rows: int,
    sample: int,
) -> dict[str, Any]:
    """All that `lmx data inspect` tells, JSON-able; ValueError when the evaluation side has no such step."""
    source = dataset.train if side == "train" else dataset.eval
    first = step * global_batch_size
    if side == "eval" and first >= len(source):
        steps = -(-len(source) // global_batch_size)
        raise ValueError(
            f"step={step} is beyond the evaluation side, whose last step is {steps - 1}; set step={steps - 1}"
        )
    last = min(first + min(rows, global_batch_size), len(source))
    return {
        "description": dataset.description,
        "examples_per_epoch": dataset.examples_per_epoch,
        "tokens_per_epoch": dataset.tokens_per_epoch,
        "side": side,
        "step": step,
        "packing": fill(source, sample),
        "rows": [{"example": i, "spans": spans(row(source, i), tokenizer)} for i in range(first, last)],
    }


def _histogram(lengths: dict[int, int], width: int = 40) -> Iterator[str]:
    most = max(lengths.values(), default=1)
    for below in sorted(lengths):
        count = lengths[below]
        bar = "#" * max(1, round(count * width / most))
        yield f"{'< ' + f'{below:,}':>14} {count:>10,} {bar}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def show(report: dict[str, Any], console: Console) -> None:
    """Writes the report: counts, packing, lengths of documents, rows in colour."""
    description = report["description"]
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in description.items():
        if not isinstance(value, dict):
            table.add_row(key.replace("_", " "), _shown(value))
        elif not any(isinstance(part, dict) for part in value.values()) and key not in ("train", "eval"):
            table.add_row(key.replace("_", " "), ", ".join(f"{k} {_shown(v)}" for k, v in value.items()))
    rows, tokens = counted(report["examples_per_epoch"], "row"), counted(report["tokens_per_epoch"], "token")
    table.add_row("epoch", f"{rows}, {tokens}")
    packing = report["packing"]
    table.add_row(
        f"{report['side']} rows",
        f"{packing['fill']:.1%} text, {packing['learnt']:.1%} learnt, "
        f"{packing['segments_per_row']:g} segments a row (over {counted(packing['rows'], 'row')})",
    )
    console.print(table)
    lengths = description.get(report["side"], {}).get("document_lengths")
    if lengths:
        console.print("\ntokens a document")
        for line in _histogram(lengths):
            console.print(line, markup=False, highlight=False)
    for one in report["rows"]:
        console.print(f"\nstep {report['step']}, example {one['example']:,}", style="bold", highlight=False)
        console.print(_coloured(one["spans"]), soft_wrap=True)


_CONTROL = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
"""Pictures of the characters that would steer the terminal."""


def _coloured(found: list[dict[str, Any]]) -> Text:
    text = Text()
    before = 0
    for span in found:
        if not span["segment"]:
            text.append(f"[{span['tokens']} padding]", style="dim")
            continue
        if span["segment"] != before and before:
            text.append("|", style="bold")
        before = span["segment"]
        colour = STYLES[(span["segment"] - 1) % len(STYLES)]
        text.append(
            span["text"].translate(_CONTROL), style=colour if span["weight"] else f"dim {colour} italic"
        )
    return text
