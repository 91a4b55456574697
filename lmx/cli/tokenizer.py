"""`lmx tokenizer train`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def train(composed: Any, run_dir: Path) -> None:
    """Learns a byte-level BPE from `data` and writes it to the directory `to`."""
    from rich.console import Console

    from lmx.config.errors import requests
    from lmx.data import bpe

    config = composed.config
    directory = Path(config.to).expanduser()
    with requests():
        if directory.is_dir() and any(directory.iterdir()):
            raise ValueError(f"to={config.to} is not empty; choose a new directory")
        began = time.perf_counter()
        with Console(stderr=True).status("learning a tokenizer"):
            texts = bpe.texts_of(config.data.source(), config.data.invalid_utf8, config.max_bytes)
            learnt = bpe.train(
                texts, vocab_size=config.vocab_size, pattern=config.pattern, specials=config.specials
            )
        about = bpe.save(learnt, directory, pattern=config.pattern, specials=config.specials)
    seconds = time.perf_counter() - began
    if config.output == "json":
        print(json.dumps({"to": str(directory), "seconds": seconds, **about}))
    else:
        size = about["vocab_size"]
        print(f"{size:,} tokens learnt in {seconds:.1f} s: {directory}")
        print(f"next: lmx train tokenizer=bpe tokenizer.path={directory} tokenizer.vocab_size={size}")


COMMANDS = (
    Command(
        name="tokenizer train",
        summary="learn a tokenizer from text",
        schema="lmx.data:TokenizerTraining",
        function=train,
        keys=("data.path", "to", "vocab_size", "specials", "max_bytes", "output"),
        examples=(
            ("lmx tokenizer train to=tokenizer", "from Python's standard library"),
            (
                "lmx tokenizer train data=text data.path=book.txt vocab_size=4k to=tokenizer",
                "from your own text",
            ),
        ),
    ),
)
