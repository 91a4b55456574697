"""`lmx generate`: continuations of prompts."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from lmx.config.errors import RequestError, requests
from lmx.infer.engine import Engine
from lmx.infer.requests import Request, Result
from lmx.run.engine import encode_prompt, make_engine
from lmx.run.infer_config import GenerateConfig
from lmx.run.load import Loaded, load
from lmx.run.sampling import new_tokens, sampling_knobs
from lmx.run.templates import templated_ids

SMOOTH = 4
"""Tokens between two pieces of text that a person watches coming."""


class Prompt(NamedTuple):
    """A prompt as given and as ids; `text` is what the ids stand for where ids were given, None without a tokenizer."""

    text: str | None
    ids: list[int]


def read_prompts(config: GenerateConfig, loaded: Loaded) -> list[Prompt]:
    """Every prompt; RequestError for an empty one or a file that cannot be read, ValueError without a tokenizer."""
    if config.prompt_tokens is not None:
        ids = list(config.prompt_tokens)
        vocab = loaded.config.model.vocab_size
        text = None
        if loaded.tokenizer is not None and all(i < vocab for i in ids):
            text = loaded.tokenizer.decode(ids)
        return [Prompt(text, ids)]
    if config.prompts_file is not None:
        path = Path(config.prompts_file).expanduser()
        try:
            texts = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise RequestError(f"prompts_file={path}: is not UTF-8 text") from None
        if not texts or not all(texts):
            where = f"line {texts.index('') + 1} is" if texts else "it is"
            raise RequestError(f"prompts_file={path}: {where} empty; a prompt needs at least one token")
    else:
        texts = [config.prompt or ""]
    if config.prompt_as == "message":
        said = [[{"role": "user", "content": text}] for text in texts]
        return [
            Prompt(text, templated_ids(loaded.tokenizer, messages, config))
            for text, messages in zip(texts, said, strict=True)
        ]
    return [Prompt(text, encode_prompt(loaded.tokenizer, text)) for text in texts]


def generate(composed: Any, run_dir: Path) -> None:
    """Prints a continuation for each prompt, as it comes; with `output=json` a list of objects."""
    config: GenerateConfig = composed.config
    with requests():
        loaded = load(
            config.source, config.dtype, which=config.which, weights=config.weights, mesh=config.mesh
        )
        prompts = read_prompts(config, loaded)
        knobs: dict[str, Any] = sampling_knobs(loaded, config) | {"logprobs": config.logprobs}
        wanted = knobs.pop("max_new_tokens")
        asked = [
            Request(
                tokens=prompt.ids,
                sample=sample,
                max_new_tokens=new_tokens(loaded, config, wanted, len(prompt.ids)),
                **knobs,
            )
            for prompt in prompts
            for sample in range(config.n)
        ]
        watched = config.output == "text" and len(asked) == 1
        steps = {"steps": SMOOTH} if watched and sys.stdout.isatty() else {}
        engine = make_engine(loaded, config.dtype, max_batch=config.batch_size, **steps)
        for request in asked:
            engine.check(request)
    began = time.perf_counter()
    results = _stream(engine, asked, prompts, config)
    spent = time.perf_counter() - began
    if config.output == "json":
        rows = [_row(prompts[i // config.n], r, i % config.n, config) for i, r in enumerate(results)]
        print(json.dumps(rows))
    made = sum(len(r.tokens) for r in results)
    rates = [r.rate for r in results if r.rate]
    each = "" if len(results) == 1 else " each"
    decoding = f", decoding at {sum(rates) / len(rates):.1f} tokens/s{each}" if rates else ""
    print(f"{made} tokens in {spent:.1f} s{decoding}", file=sys.stderr)


def _stream(
    engine: Engine, asked: list[Request], prompts: list[Prompt], config: GenerateConfig
) -> list[Result]:
    """Runs the engine; prints texts in the order of the prompts, the one whose turn it is as it comes."""
    results: list[Result | None] = [None] * len(asked)
    waiting: dict[int, str] = {}
    turn, begun = 0, False
    for delta in engine.stream(asked, results):
        if config.output == "json":
            continue
        waiting[delta.index] = waiting.get(delta.index, "") + delta.text
        while turn < len(asked) and turn in waiting:
            shown = not begun and config.prompt_as == "text"
            start = prompts[turn // config.n].text or "" if shown else ""
            print(start + waiting.pop(turn), end="", flush=True)
            begun = True
            if results[turn] is None:
                break
            if engine.tokenizer is None:
                print(*results[turn].tokens, end="")  # type: ignore[union-attr]
            print(flush=True)
            turn, begun = turn + 1, False
    return [r for r in results if r is not None]


def _row(prompt: Prompt, result: Result, sample: int, config: GenerateConfig) -> dict[str, Any]:
    row: dict[str, Any] = {
        "prompt": prompt.text,
        "text": result.text,
        "tokens": result.tokens,
        "finish_reason": result.finish_reason,
        "tokens_per_second": result.rate,
    }
    if config.n > 1:
        row["sample"] = sample
    if result.logprobs is not None:
        row["logprobs"] = [p.chosen for p in result.logprobs]
        row["top_logprobs"] = [[{"token": i, "logprob": v} for i, v in p.best] for p in result.logprobs]
    return row
