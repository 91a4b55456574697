"""Prompts in, continuations out: prefill in buckets of length, then a decode loop that stays on the device.

Shapes come in powers of two (rows, prompt length, cache length), and everything else about a request is an array,
so that after each bucket was met once nothing is compiled any more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lmx.infer.progress import Progress
from lmx.infer.requests import Request, Result, bucket, check, controls_of
from lmx.infer.sampling import TOP_LOGPROBS, Chosen, Controls, choose
from lmx.layers.loss import logits
from lmx.models.model import Model
from lmx.types import KVCache, Tree

LEAST_LENGTH = 16
"""Smallest bucket of prompts, and of caches."""

STEPS = 32
"""Tokens a dispatch of the decode loop at most."""


class Rows(NamedTuple):
    """A batch on the device between two dispatches.

    cache   of all tokens but each row's last chosen one
    next_B  int32, that one
    made_B  int32, tokens chosen so far
    done_B  bool, whether the row has ended
    """

    cache: KVCache
    next: Any
    made: Any
    done: Any


class Delta(NamedTuple):
    """What a dispatch brought for one request: its index, the text that may be shown, whether it has ended."""

    index: int
    text: str
    ended: bool


class Engine:
    """Compiled programs over one model's parameters. Not for several threads at once."""

    def __init__(
        self,
        model: Model,
        params: Tree,
        tokenizer: Any = None,
        *,
        vocab_size: int | None = None,
        max_length: int | None = None,
        max_batch: int = 16,
        steps: int = STEPS,
        compiler_options: dict[str, Any] | None = None,
    ) -> None:
        """`params` as the model's forward takes them, prepared or not; abstract where programs are only lowered.

        `vocab_size`: ids from there on are never chosen. `max_length`: longest prompt and continuation, the
        model's own limit when None. `max_batch`: rows at once. `steps`: tokens between two looks at stop texts.
        `compiler_options`: of every program.
        """
        self.model, self.params, self.tokenizer = model, params, tokenizer
        self.vocab_size = model.config.vocab_size
        limits = [n for n in (model.config.max_length(), max_length) if n is not None]
        self.max_length = min(limits, default=None)
        self.max_batch, self.steps = max_batch, min(steps, STEPS)
        self._known = self.vocab_size if vocab_size is None else vocab_size
        chosen = partial(_choose, model)
        jit = partial(jax.jit, compiler_options=compiler_options)
        self._prefill = jit(partial(_prefill, model, chosen))
        self._grow = jit(partial(_grow, model), static_argnums=1)
        self._decode = jit(partial(_decode, model, chosen), donate_argnums=1)
        self._refill = jit(partial(_refill, model))
        self._switches = model.config.rope_switches()

    def check(self, request: Request) -> None:
        """ValueError when the request cannot be honoured."""
        check(request, vocab_size=self.vocab_size, max_length=self.max_length)

    def cache_length(self, length: int) -> int:
        """Positions of the caches that hold `length` tokens."""
        return bucket(length, least=LEAST_LENGTH, most=self.max_length)

    def start(self, requests: Sequence[Request]) -> tuple[Rows, Controls, Chosen]:
        """The batch after prefill, its controls on the device, and the first tokens, [B, 1]."""
        rows = bucket(len(requests))
        longest = max(len(r.tokens) for r in requests)
        width = self.cache_length(longest)
        whole = max(len(r.tokens) + r.max_new_tokens for r in requests)
        capacity = max(width, self.cache_length(whole))
        tokens_BT = np.zeros((rows, width), np.int32)
        for row, request in enumerate(requests):
            tokens_BT[row, : len(request.tokens)] = request.tokens
        controls = jax.device_put(controls_of(requests, rows, vocab_size=self._known))
        state, first = self._prefill(self.params, tokens_BT, controls)
        return (self._grow(state, capacity) if capacity > width else state), controls, first

    def warm_up(self, length: int) -> None:
        """Compiles all that requests of up to `length` tokens, prompt and continuation together, can need.

        More than `lmx.infer.requests.WIDTH` entries of `logit_bias` or `stop_tokens` are not foreseen.
        """
        longest = self.cache_length(length)
        sizes = [LEAST_LENGTH]
        while sizes[-1] < longest:
            sizes.append(min(2 * sizes[-1], longest))
        for rows in (1 << n for n in range(bucket(self.max_batch).bit_length())):
            for width in sizes:
                for capacity in (size for size in sizes if size >= width):
                    prompt = min(width, capacity - 1)
                    one = Request(tokens=[0] * prompt, max_new_tokens=capacity - prompt)
                    state, controls, _ = self.start([one] * rows)
                    self.advance(state, controls, np.ones(rows, bool), 0)
                    if self._switches:
                        self._refill(self.params, self.start([one] * rows)[0], np.ones(rows, bool))

    def advance(
        self, state: Rows, controls: Controls, halted_B: np.ndarray, steps: int
    ) -> tuple[Rows, Chosen]:
        """Up to `steps` more tokens a row, [B, STEPS]; rows of `halted` get none. The state is donated."""
        return self._decode(self.params, state, controls, halted_B, np.int32(steps))

    def lowered(self, rows: int, length: int) -> jax.stages.Lowered:
        """The program of `advance` for `rows` rows and caches of `length` positions; `params` may be abstract."""
        one = Request(tokens=[0], max_new_tokens=1)
        rows, length = bucket(rows), self.cache_length(length)
        controls = controls_of([one] * rows, rows, vocab_size=self._known)
        prompts_BT = jax.ShapeDtypeStruct((rows, length), np.int32)
        state = jax.eval_shape(self._prefill, self.params, prompts_BT, controls)[0]
        layout = _layout(self.model, state)
        if layout is None:  # one device, that of the parameters
            there = jax.tree.leaves(self.params)[0].sharding
            there = NamedSharding(there.mesh, PartitionSpec()) if isinstance(there, NamedSharding) else there
            layout = jax.tree.map(lambda _: there, state)
        state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s, weak_type=x.weak_type),
            state,
            layout,
        )
        return self._decode.lower(self.params, state, controls, np.zeros(rows, bool), np.int32(self.steps))

    def stream(self, requests: Sequence[Request], results: list[Result | None]) -> Iterator[Delta]:
        """Texts as they come; `results` (one place a request) is filled as requests end. ValueError for a bad one.

        Requests are batched in order, `max_batch` at a time.
        """
        for request in requests:
            self.check(request)
        for first in range(0, len(requests), self.max_batch):
            batch = list(requests[first : first + self.max_batch])
            yield from self._stream_batch(batch, results, first)

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """The continuations, in order."""
        results: list[Result | None] = [None] * len(requests)
        for _ in self.stream(requests, results):
            pass
        return [r for r in results if r is not None]

    def _stream_batch(
        self, requests: list[Request], results: list[Result | None], first: int
    ) -> Iterator[Delta]:
        state, controls, column = self.start(requests)
        # No step: what has to be compiled is compiled before the clock starts.
        state, _ = self.advance(state, controls, np.zeros(state.done.shape, bool), 0)
        began = time.perf_counter()
        progress = [Progress(request, self.tokenizer) for request in requests]
        made_before = np.zeros(len(requests), np.int32)
        while True:
            made = np.asarray(state.made)[: len(requests)]
            wanted = any(r.logprobs is not None for r in requests)
            host = jax.device_get(column if wanted else column._replace(top_ids=None, top_logprobs=None))
            for row, part in enumerate(progress):
                if part.ended:
                    continue
                text = part.push(host, row, int(made[row] - made_before[row]))
                if part.ended:
                    results[first + row] = part.result(time.perf_counter() - began)
                if text or part.ended:
                    yield Delta(first + row, text, part.ended)
            if all(part.ended for part in progress):
                return
            made_before = made
            halted = np.ones(state.done.shape, bool)
            halted[: len(requests)] = [part.ended for part in progress]
            state, steps = self._switched(state, [len(r.tokens) for r in requests] + made - 1, halted)
            state, column = self.advance(state, controls, halted, steps)

    def _switched(self, state: Rows, lengths_B: np.ndarray, halted_B: np.ndarray) -> tuple[Rows, int]:
        """The state with the caches made anew of rows at a length where all positions are turned otherwise.

        And steps until the next row is there, `steps` at most. As transformers does it in Phi-3.
        """
        steps = self.steps
        for switch in self._switches:
            left_B = np.where(halted_B[: len(lengths_B)], -1, switch - lengths_B)
            if (left_B == 0).any():
                crosses_B = np.zeros(halted_B.shape, bool)
                crosses_B[: len(left_B)] = left_B == 0
                state = self._refill(self.params, state, crosses_B)
            steps = min([steps, *left_B[left_B > 0].tolist()])
        return state, steps


def _choose(model: Model, params: Tree, hidden_BD: jax.Array, controls: Controls, cache: KVCache) -> Chosen:
    y_BV = logits(hidden_BD, model.head(params))
    return choose(y_BV, controls, tokens_BS=cache.tokens, lengths_B=cache.lengths)


def _layout(model: Model, state: Rows) -> Rows | None:
    """How the arrays of a batch lie on the mesh, the same after every program; None: as the compiler likes."""
    cache = None if model.cache_shardings is None else model.cache_shardings(state.cache)
    if cache is None:
        return None
    everywhere = NamedSharding(cache.lengths.mesh, PartitionSpec())  # every host reads these
    return Rows(cache, everywhere, everywhere, everywhere)


def _laid(model: Model, state: Rows, made: Chosen) -> tuple[Rows, Chosen]:
    layout = _layout(model, state)
    if layout is None:
        return state, made
    everywhere = jax.tree.map(lambda _: layout.done, made)
    return jax.lax.with_sharding_constraint((state, made), (layout, everywhere))


def _laid_rows(model: Model, state: Rows) -> Rows:
    layout = _layout(model, state)
    return state if layout is None else jax.lax.with_sharding_constraint(state, layout)


def _ended(ids_B: jax.Array, made_B: jax.Array, controls: Controls) -> jax.Array:
    return (ids_B[:, None] == controls.stop).any(-1) | (made_B >= controls.limit)


def _prefill(
    model: Model, chosen: Any, params: Tree, tokens_BT: jax.Array, controls: Controls
) -> tuple[Rows, Chosen]:
    """The prompts, padded on the right to one length, and the first token after each."""
    b, t = tokens_BT.shape
    empty = model.init_cache(b, t)
    empty = empty._replace(limits=jnp.zeros_like(empty.limits))  # ropes go by what a row has so far
    real_BT = (jnp.arange(t) < controls.prompt[:, None]).astype(jnp.int32)
    out = model.forward(params, tokens_BT, segments_BT=real_BT, cache=empty)
    cache = out.cache
    assert cache is not None
    last_BD = jnp.take_along_axis(out.hidden, controls.prompt[:, None, None] - 1, axis=1)[:, 0]
    first = chosen(params, last_BD, controls, cache)
    made_B = jnp.minimum(controls.limit, 1)
    state = Rows(cache, first.ids, made_B, _ended(first.ids, made_B, controls))
    return _laid(model, state, jax.tree.map(lambda x: x[:, None], first))


def _grow(model: Model, state: Rows, length: int) -> Rows:
    """The same with room for `length` positions; layers that look back no further than they have room for stay."""

    def longer(x: jax.Array, wanted: Any) -> jax.Array:
        return jnp.pad(x, [(0, n - m) for m, n in zip(x.shape, wanted.shape, strict=True)])

    wanted = jax.eval_shape(lambda: model.init_cache(state.done.shape[0], length))
    return _laid_rows(model, state._replace(cache=jax.tree.map(longer, state.cache, wanted)))


def _refill(model: Model, params: Tree, state: Rows, crosses_B: jax.Array) -> Rows:
    """The same with keys and values of the rows that cross as in one pass over a sequence one token longer."""
    cache = state.cache
    b, s = cache.tokens.shape
    real_BS = (jnp.arange(s) < cache.lengths[:, None]).astype(jnp.int32)
    empty = model.init_cache(b, s)._replace(limits=cache.lengths + 1)
    made = model.forward(params, cache.tokens, segments_BT=real_BS, cache=empty).cache
    assert made is not None

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(crosses_B[:, None, None, None], new, old)  # [.., B, heads, positions, width]

    held = {
        name: jax.tree.map(pick, getattr(made, name), getattr(cache, name))
        for name in ("keys", "values", "inputs")
    }
    return _laid_rows(model, state._replace(cache=cache._replace(**held)))


def _decode(
    model: Model,
    chosen: Any,
    params: Tree,
    state: Rows,
    controls: Controls,
    halted_B: jax.Array,
    steps: jax.Array,
) -> tuple[Rows, Chosen]:
    """Up to `steps` tokens more for each row that has not ended; a row's new ones stand first in its line."""
    b = halted_B.shape[0]
    made = Chosen(
        jnp.zeros((b, STEPS), jnp.int32),
        jnp.zeros((b, STEPS), jnp.float32),
        jnp.zeros((b, STEPS, TOP_LOGPROBS), jnp.int32),
        jnp.zeros((b, STEPS, TOP_LOGPROBS), jnp.float32),
    )

    def going(carry: tuple) -> jax.Array:
        return (carry[0] < steps) & ~carry[1].done.all()

    def step(carry: tuple) -> tuple:
        i, rows, made = carry
        out = model.forward(params, rows.next[:, None], cache=rows.cache)
        assert out.cache is not None
        # A row that has ended is computed along, but stays where it is.
        lengths_B = jnp.where(rows.done, rows.cache.lengths, out.cache.lengths)
        cache = out.cache._replace(lengths=lengths_B)
        new = chosen(params, out.hidden[:, -1], controls, cache)
        made_B = rows.made + ~rows.done
        made = jax.tree.map(lambda all_, one: all_.at[:, i].set(one), made, new)
        next_B = jnp.where(rows.done, rows.next, new.ids)
        rows = Rows(cache, next_B, made_B, rows.done | _ended(new.ids, made_B, controls))
        return i + 1, *_laid(model, rows, made)

    state = state._replace(done=state.done | halted_B)
    return jax.lax.while_loop(going, step, (jnp.int32(0), state, made))[1:]
