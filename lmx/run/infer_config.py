"""The roots of `lmx generate`, `lmx chat` and `lmx eval`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from lmx.config.component import Config, Fault, field
from lmx.config.mesh import Mesh
from lmx.config.types import Count, Flag, Fraction, NonNegative, Positive, PositiveReal, Real, Text
from lmx.data import Data
from lmx.run.places import folder_faults, prompts_faults, source_faults, tools_faults

Dtype = Literal["float32", "bfloat16", "float16"]


class Sampling(Config):
    """What `lmx generate` and `lmx chat` have in common: the model, and how tokens are chosen."""

    source: Text = Field(
        alias="from", description="run directory, RUN/checkpoints/STEP, or HuggingFace directory"
    )
    which: Literal["last", "best"] | Count = field("checkpoint of a run directory: last, best, or its step")
    weights: Literal["auto", "params", "ema"] = field(
        "parameters or their average; auto: the average when kept"
    )
    dtype: Dtype = field("of parameters and computation")
    mesh: Mesh | None = field("devices; null: one, or those of the run", effect="throughput")
    generation_config: Literal["auto", "ignore"] = field(
        "auto: what is `auto` below is taken from the directory's generation_config.json; ignore: never"
    )
    max_new_tokens: Literal["auto"] | Positive = field(
        "length of the continuation at most; auto: that of generation_config.json, else 128 or what fits the context",
        unit="tokens",
    )
    temperature: Literal["auto"] | NonNegative = field(
        "0 is greedy; auto: that of generation_config.json, else 0.8"
    )
    top_k: Literal["auto"] | Positive | None = field(
        "only the k most probable tokens; null: all; auto: as in generation_config.json"
    )
    top_p: Literal["auto"] | Fraction | None = field(
        "only the most probable tokens of this total probability; null: all; auto: as in generation_config.json"
    )
    min_p: Literal["auto"] | Fraction | None = field(
        "only tokens with this part of the largest probability; null: all; auto: as in generation_config.json"
    )
    repetition_penalty: Literal["auto"] | PositiveReal | None = field(
        "divides (negative: multiplies) logits of tokens in prompt and continuation (arXiv:1909.05858); "
        "null: nothing; auto: as in generation_config.json"
    )
    presence_penalty: Real | None = field("taken from logits of tokens that the continuation has")
    frequency_penalty: Real | None = field("the same, times how often it has them")
    logit_bias: dict[Count, Real] | None = field("id -> what is added to its logit", example="{13: -100}")
    stop: list[Text] | Text | None = field("text, or a list of texts, that end it and are cut off")
    stop_tokens: list[Count] | None = field("ids that end it, beside the end-of-text token")
    seed: Count = field(
        "of the sampling: the same seed and prompt give the same text, whatever else is in the batch"
    )
    ignore_eos: Flag = field("go on after the end-of-text token")

    tools: Text | None = field("JSON file with a list of the tools' schemas, for the chat template")
    chat_template_kwargs: dict[Text, Any] | None = field(
        "variables of the chat template", example="{enable_thinking: false}"
    )

    @classmethod
    def faults(cls, node: Mapping[str, Any]) -> list[Fault]:
        """Files that are not there."""
        return source_faults(node) + prompts_faults(node) + tools_faults(node)


class GenerateConfig(Sampling):
    """`lmx generate`."""

    prompt: Text | None = field("text to go on from")
    prompt_tokens: list[Count] | None = field("ids to go on from")
    prompts_file: Text | None = field("file with a prompt a line")
    prompt_as: Literal["text", "message"] = field(
        "text: as it is; message: what a user says, in the model's chat template"
    )
    n: Positive = field("continuations of each prompt")
    logprobs: Count | None = field(
        "log-probabilities of the chosen tokens and of this many best ones (at most 20), with output=json; null: none"
    )
    batch_size: Positive = field("continuations made at once", effect="throughput")
    output: Literal["text", "json"] = field("form of the result on stdout")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        given = [k for k in ("prompt", "prompt_tokens", "prompts_file") if getattr(self, k) is not None]
        if len(given) != 1:
            said = "is none" if not given else f"are {' and '.join(given)}"
            return [
                (
                    "prompt",
                    f"exactly one of prompt, prompt_tokens, prompts_file is needed, but there {said}",
                    "prompt='def '",
                )
            ]
        if self.logprobs is not None and self.output == "text":
            return [("logprobs", "log-probabilities are shown with output=json alone", "output=json")]
        templated = [k for k in ("tools", "chat_template_kwargs") if getattr(self, k) is not None]
        if self.prompt_as == "text" and templated:
            return [
                (templated[0], "is for the chat template, and prompt_as=text uses none", "prompt_as=message")
            ]
        if self.prompt_as == "message" and self.prompt_tokens is not None:
            return [
                ("prompt_as", "is message, but prompt_tokens are ids, not what a user says", "prompt_as=text")
            ]
        if self.prompt == "" or self.prompt_tokens == []:
            return [
                (given[0], "is empty; a continuation needs at least one token to go on from", "prompt='def '")
            ]
        return []


class ChatConfig(Sampling):
    """`lmx chat`."""

    system: Text | None = field("what the conversation begins with: the system's message")


class EvalConfig(Config):
    """`lmx eval`."""

    source: Text = Field(
        alias="from", description="run directory, RUN/checkpoints/STEP, or HuggingFace directory"
    )
    which: Literal["last", "best"] | Count = field("checkpoint of a run directory: last, best, or its step")
    weights: Literal["auto", "params", "ema"] = field(
        "parameters or their average; auto: the average when kept"
    )
    dtype: Dtype = field("of parameters and computation")
    mesh: Mesh | None = field("devices; null: one, or those of the run", effect="throughput")
    data: Data | None = field("what is evaluated on; null: the data of the run")
    split: Literal["auto", "eval", "all"] = field(
        "eval: what training keeps apart; all: the whole text (eval_path's, where one is set); "
        "auto: all where data is given, eval where it is the run's"
    )
    sequence_length: Positive | None = field("context; null: that of the run", unit="tokens")
    stride: Positive | None = field(
        "tokens between the starts of windows over the whole text, each token scored given the rest of its window "
        "(1: the longest context for every token); null: the rows that training evaluates on",
        unit="tokens",
    )
    batch_size: Positive = field("sequences evaluated at once")
    sequences: Positive | None = field("how many are evaluated; null: all")
    tasks: Text | list[Text] | None = field(
        "tasks of EleutherAI's lm-evaluation-harness instead of data (needs lmx[eval])", example="[gsm8k]"
    )
    include_path: Text | None = field("folder with task files (YAML) of one's own")
    limit: Positive | None = field("documents of each task; null: all")
    fewshot: Count | None = field("solved examples before each question; null: as the task says")
    max_new_tokens: Positive = field(
        "length of an answer at most, where the task does not say", unit="tokens"
    )
    output: Literal["text", "json"] = field("form of the result on stdout")

    def problems(self) -> list[tuple[str, str, str]]:
        """Contradictions between keys: (key, message, fix)."""
        if self.tasks is None or self.data is None:
            return []
        return [("tasks", "tasks bring their own data: leave out data= or tasks=", "tasks=null")]

    @classmethod
    def faults(cls, node: Mapping[str, Any]) -> list[Fault]:
        """Files that are not there."""
        return source_faults(node) + folder_faults(node, "include_path")
