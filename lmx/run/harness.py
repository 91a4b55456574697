"""`lmx eval tasks=...`: EleutherAI's lm-evaluation-harness over a model of ours."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lmx.config.errors import RequestError, requests
from lmx.infer.requests import Request
from lmx.infer.score import Scorer
from lmx.run.engine import encode_prompt, make_engine
from lmx.run.infer_config import EvalConfig
from lmx.run.load import Loaded, load
from lmx.run.sampling import OFF

log = logging.getLogger(__name__)

UNLIMITED = 2048
"""Context where the model itself knows no limit."""


_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_FLOATS = ("top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_KNOWN = ("until", "do_sample", "temperature", "top_k", "seed", *_LENGTHS, *_FLOATS)


def answer_knobs(knobs: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """A task's `generation_kwargs` as fields of a `Request`.

    `do_sample: false` is greedy whatever the temperature; where it is not said, a temperature means sampling.
    `max_new_tokens` where the task does not say. RequestError for one that is not known, unless it is off.
    """
    for key, value in knobs.items():
        if key not in _KNOWN and value is not None and value not in OFF.get(key, ()):
            raise RequestError(
                f"tasks: generation_kwargs has {key}={value!r}, which is not supported; "
                f"these are: {', '.join(_KNOWN)}"
            )
    drawn = knobs.get("do_sample")
    drawn = knobs.get("temperature") is not None if drawn is None else drawn
    heat = knobs.get("temperature")
    until = knobs.get("until") or []
    found: dict[str, Any] = {key: float(knobs[key]) for key in _FLOATS if knobs.get(key) is not None}
    return found | {
        "max_new_tokens": next((int(knobs[key]) for key in _LENGTHS if knobs.get(key)), max_new_tokens),
        "temperature": (1.0 if heat is None else float(heat)) if drawn else 0.0,
        "top_k": int(knobs["top_k"]) if knobs.get("top_k") else None,
        "seed": int(knobs.get("seed") or 0),
        "stop": [until] if isinstance(until, str) else [u for u in until if u],
    }


class Judged:
    """What the harness asks of a model, over an engine and a scorer that share one set of parameters."""

    def __init__(self, loaded: Loaded, config: EvalConfig) -> None:
        if loaded.tokenizer is None:
            raise ValueError(f"from={config.source}: has no tokenizer, so tasks cannot be read")
        self.config, self.tokenizer = config, loaded.tokenizer
        own = loaded.max_length or UNLIMITED
        self.max_length = min(own, config.sequence_length or own)
        self.engine = make_engine(loaded, config.dtype, max_batch=config.batch_size)
        self.scorer = Scorer(
            self.engine.model, self.engine.params, max_length=self.max_length, batch_size=config.batch_size
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text that stands at the beginning."""
        return encode_prompt(self.tokenizer, text)

    @property
    def start(self) -> list[int]:
        """What a text without context begins with."""
        for name in ("bos_id", "eos_id"):
            found = getattr(self.tokenizer, name)
            if found is not None:
                return [int(found)]
        raise ValueError(
            "the tokenizer has no token that begins or ends a text, so nothing can be scored from"
        )

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both; spaces at the end of the context belong to the continuation, as in the text they form."""
        if not context:
            ids = [int(i) for i in self.tokenizer.encode(continuation)]
            return self.start, ids
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        whole, before = self.encode(context + continuation), self.encode(context)
        return (before, whole[len(before) :]) if before else (self.start, whole)

    def loglikelihood(
        self, pairs: list[tuple[str, str]], names: Sequence[str] | None = None
    ) -> list[tuple[float, bool]]:
        """For each (context, continuation) its log-probability, and whether greedy decoding would give it.

        RequestError, with the request's name of `names`, for a continuation that is longer than the context. Of longer
        pairs the beginning is left out, with a warning.
        """
        encoded = [self.pair(*p) for p in pairs]
        for number, (_, continuation) in enumerate(encoded):
            if len(continuation) >= self.max_length:
                name = f"request {number}" if names is None else names[number]
                raise RequestError(
                    f"tasks: {name}: its continuation of {len(continuation)} tokens does not fit the context of "
                    f"{self.max_length}\n    fix: a longer sequence_length where the model allows it, or another task"
                )
        self._warn_of_cuts([len(c) + len(continuation) > self.max_length for c, continuation in encoded])
        return [(s.logprob, s.greedy) for s in self.scorer.score(encoded)]

    def rolling(self, texts: list[str]) -> list[float]:
        """The log-probability of each whole text, in windows that do not overlap, each token scored once."""
        windows, owner = [], []
        for index, text in enumerate(texts):
            ids = [int(i) for i in self.tokenizer.encode(text)]
            step = self.max_length - 1
            for begin in range(0, len(ids), step):
                context = self.start if begin == 0 else [ids[begin - 1]]
                windows.append((context, ids[begin : begin + step]))
                owner.append(index)
        total = [0.0] * len(texts)
        for index, score in zip(owner, self.scorer.score(windows), strict=True):
            total[index] += score.logprob
        return total

    def generate(self, asked: list[tuple[str, dict[str, Any]]]) -> list[str]:
        """A continuation for each (context, knobs); a long context loses its beginning, with a warning.

        Equal requests are drawn anew. RequestError for a knob that cannot take effect.
        """
        met: Counter[tuple[int, ...]] = Counter()
        made, cut = [], []
        for context, knobs in asked:
            settled = answer_knobs(knobs, self.config.max_new_tokens)
            new = min(settled.pop("max_new_tokens"), self.max_length - 1)
            whole = self.encode(context) or self.start
            ids = tuple(whole[-(self.max_length - new) :])
            cut.append(len(ids) < len(whole))
            eos = getattr(self.tokenizer, "eos_ids", None) or [self.tokenizer.eos_id]
            stops = [int(i) for i in eos if i is not None]
            made.append(
                Request(tokens=ids, max_new_tokens=new, sample=met[ids], stop_tokens=stops, **settled)
            )
            met[ids] += 1
        self._warn_of_cuts(cut)
        return [result.text for result in self.engine.run(made)]

    def _warn_of_cuts(self, cut: Sequence[bool]) -> None:
        if any(cut):
            log.warning(
                f"tasks: {sum(cut)} of {len(cut)} prompts do not fit the context of {self.max_length} beside their "
                "answers and lost their beginning: fewer examples (fewshot), or a longer sequence_length where the "
                "model allows it"
            )


def unknown_task(name: str, folder: str | None) -> str:
    """What to say of a task that is not there."""
    if folder is None:
        return f"tasks: the harness has no task {name!r}"
    return f"tasks: neither the harness nor include_path={folder} has a task {name!r}"


def _adapter(judged: Judged) -> Any:
    """The harness's own class around `judged`."""
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

    class Adapter(LM):
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            names = [f"{r.task_name}, document {r.doc_id}" for r in requests]
            return judged.loglikelihood([r.args for r in requests], names)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            return judged.rolling([r.args[0] for r in requests])

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return judged.generate([r.args for r in requests])

    return Adapter()


def evaluate_tasks(config: EvalConfig) -> float:
    """Prints the metrics of each task (one JSON document with `output=json`); returns the first one's first metric.

    RequestError where the harness is not installed, or knows no such task.
    """
    assert config.tasks is not None
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise RequestError(
            "tasks: lm-evaluation-harness is not installed\n    fix: pip install 'lmx[eval]'"
        ) from None
    names = [config.tasks] if isinstance(config.tasks, str) else list(config.tasks)
    with requests():
        manager = TaskManager(include_path=config.include_path)
        wrong = [name for name in names if not manager.match_tasks([name])]
        if wrong:
            raise ValueError(unknown_task(wrong[0], config.include_path))
        loaded = load(
            config.source, config.dtype, which=config.which, weights=config.weights, mesh=config.mesh
        )
        judged = Judged(loaded, config)
    found = simple_evaluate(
        model=_adapter(judged),
        tasks=names,
        num_fewshot=config.fewshot,
        limit=config.limit,
        task_manager=manager,
        log_samples=False,
        bootstrap_iters=1000,
    )
    assert found is not None
    results = {
        name: {key: value for key, value in metrics.items() if isinstance(value, int | float | str)}
        for name, metrics in found["results"].items()
    }
    whole = {"from": config.source, "step": loaded.step, "results": results, "limit": config.limit}
    if config.output == "json":
        print(json.dumps(whole))
    else:
        for name, metrics in results.items():
            shown = [f"{k.split(',')[0]} {v:.4f}" for k, v in metrics.items() if isinstance(v, float)]
            print(f"{name}: {', '.join(shown)}")
    values = [v for metrics in results.values() for v in metrics.values() if isinstance(v, float)]
    return values[0] if values else math.nan
