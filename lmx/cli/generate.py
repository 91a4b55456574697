"""`lmx generate` and `lmx bench generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmx.cli.command import Command


def run(composed: Any, run_dir: Path) -> None:
    """Prints continuations."""
    from lmx.run.generate import generate

    generate(composed, run_dir)


def run_bench(composed: Any, run_dir: Path) -> float:
    """Times prefill and decoding; returns the seconds that a token takes in the first batch size."""
    from lmx.run.bench_generate import bench_generate, generate_text

    found = bench_generate(composed.config)
    print(json.dumps(found) if composed.config.output == "json" else generate_text(found))
    return 1 / found[0]["decode_tokens_per_second"]


COMMANDS = (
    Command(
        name="generate",
        summary="continue prompts with a checkpoint",
        schema="lmx.run.infer_config:GenerateConfig",
        function=run,
        literal=("prompt",),
        positional="from",
        keys=(
            *("from", "which", "weights", "dtype"),
            *("prompt", "prompt_tokens", "prompts_file", "prompt_as", "chat_template_kwargs", "tools"),
            *("max_new_tokens", "temperature", "top_k", "top_p", "min_p"),
            *("repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"),
            *("stop", "stop_tokens", "ignore_eos", "generation_config"),
            *("n", "logprobs", "seed", "batch_size", "output"),
        ),
        examples=(
            ("lmx generate from=runs/RUN prompt='def '", "go on from a text"),
            ("lmx generate from=runs/RUN prompt='import ' temperature=0", "the most probable continuation"),
            ("lmx generate from=runs/RUN which=best prompts_file=prompts.txt", "a prompt a line"),
            (
                "lmx generate from=DIR prompt_tokens=[10,20,30] output=json",
                "a HuggingFace directory; ids in, JSON out",
            ),
            (
                "lmx generate from=DIR prompt='Q: ' n=4 stop='Q:' max_new_tokens=50",
                "four answers, each up to a text",
            ),
            ("lmx generate from=runs/RUN/checkpoints/200 prompt='class ' top_k=20", "an earlier checkpoint"),
        ),
    ),
    Command(
        name="bench generate",
        summary="measure prefill and decoding",
        schema="lmx.run.bench_generate:BenchGenerate",
        function=run_bench,
        keys=(
            "from",
            "batch",
            "prompt_length",
            "max_new_tokens",
            "dtype",
            "repeats",
            "model.n_layers",
            "output",
        ),
        examples=(
            ("lmx bench generate", "the fixed job: 8 layers, 512 wide, 128 + 128 tokens, batch 1 and 8"),
            ("lmx bench generate from=DIR batch=[1,4,16] output=json", "a model from disk, as JSON"),
            ("lmx bench generate dtype=bfloat16 model=qwen3_0p6b batch=[1]", "another shape, in bfloat16"),
        ),
    ),
)
