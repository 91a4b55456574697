"""What a model in training is judged by: its loss on held-out text, and the text that it writes."""

from __future__ import annotations

from typing import Any

from lmx.data.loader import eval_batches
from lmx.data.pretrained import IdsOnly
from lmx.infer.engine import Engine
from lmx.infer.requests import Request
from lmx.run.build import Parts, to_devices
from lmx.run.config import TrainConfig
from lmx.run.programs import EvalProgram, options_for
from lmx.sharding.rows import rows_of_process
from lmx.train.evaluate import Evaluation, evaluate
from lmx.types import TrainState, Tree


class Judge:
    """Evaluates and samples from a state. Programs are compiled when they are first needed."""

    def __init__(self, config: TrainConfig, parts: Parts, tokenizer: Any, dataset: Any) -> None:
        """ValueError when the prompt of the samples does not fit the model's positions."""
        self.config, self.parts, self.tokenizer, self.dataset = config, parts, tokenizer, dataset
        options = options_for(config, parts.mesh)
        self._loss = EvalProgram(parts.model, parts.kernels, parts.mesh, options=options).of(
            tokenizer.token_bytes
        )
        self._engine = Engine(
            parts.model, None, vocab_size=tokenizer.vocab_size, max_batch=1, compiler_options=options
        )
        if isinstance(tokenizer, IdsOnly):  # text cannot be had: a sample begins with one id
            self._prompt = [tokenizer.eos_id or 0]
        else:
            ids = [int(i) for i in tokenizer.encode(config.trainer.sample.prompt)]
            self._prompt = ids or ([] if tokenizer.eos_id is None else [tokenizer.eos_id])
        if config.trainer.sample.tokens:
            try:
                self._engine.check(self._request())
            except ValueError as error:
                raise ValueError(f"trainer.sample.prompt: {error}") from None

    def _request(self) -> Request:
        knobs = self.config.trainer.sample
        positions = self.config.model.max_length()
        room = knobs.tokens if positions is None else max(positions - len(self._prompt), 1)
        tokens = min(knobs.tokens, room)
        return Request(
            tokens=self._prompt, max_new_tokens=tokens, temperature=knobs.temperature, seed=knobs.seed
        )

    def _params(self, state: TrainState) -> Tree:
        """The average of the weights when one is kept, else what the optimizer says is to be evaluated."""
        if state.ema is not None:
            return state.ema
        return self.config.optimizer.eval_params(state.opt_state, state.params)

    def evaluate(self, state: TrainState) -> Evaluation:
        """Loss and bits per byte over the evaluation split, or the configured part of it."""
        trainer = self.config.trainer
        stream = eval_batches(
            self.dataset,
            batch_size=trainer.eval_batch_size,
            max_rows=trainer.eval_sequences,
            rows=rows_of_process(self.parts.batch_sharding).rows(trainer.eval_batch_size),
        )
        on_devices = (to_devices(batch, self.parts.batch_sharding) for batch in stream)
        return evaluate(self._loss, self._params(state), on_devices)

    def sample(self, state: TrainState) -> str | None:
        """The configured prompt and how the model goes on; None when no sample is wanted."""
        if not self.config.trainer.sample.tokens:
            return None
        # Not kept: the next step takes the state's arrays over.
        self._engine.params = self._params(state)
        try:
            made = self._engine.run([self._request()])[0].tokens
        finally:
            self._engine.params = None
        return self.tokenizer.decode([*self._prompt, *made])
