"""The name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr", "base_lr", "max_lr", "peak_lr", "step_size"),
    "weight_decay": ("wd", "decay"),
    "global_batch_size": ("batch_size", "bs", "batch", "train_batch_size"),
    "sequence_length": ("seq_len", "seq_length", "block_size", "context_length", "max_length", "max_seq_len"),
    "steps": (
        "max_steps",
        "num_steps",
        "n_steps",
        "iterations",
        "max_iters",
        "num_train_steps",
        "total_steps",
    ),
    "n_layers": ("n_layer", "num_layers", "num_hidden_layers", "depth", "layers"),
    "d_model": ("n_embd", "hidden_size", "dim", "width", "emb_dim", "model_dim", "embed_dim"),
    "n_heads": ("n_head", "num_heads", "num_attention_heads", "heads"),
    "n_kv_heads": ("num_kv_heads", "num_key_value_heads", "kv_heads"),
    "d_ff": ("ffn_dim", "intermediate_size", "mlp_dim", "hidden_dim", "ff_dim"),
    "head_dim": ("d_head", "d_kv"),
    "vocab_size": ("n_vocab", "vocabulary_size", "vocab"),
    "warmup": ("warmup_steps", "num_warmup_steps", "warmup_iters"),
    "warmup_steps": ("warmup", "num_warmup_steps", "warmup_iters"),
    "accumulation": ("gradient_accumulation_steps", "grad_accum", "accumulate", "accumulation_steps"),
    "eval_every": ("eval.every", "evaluation.every", "eval_interval", "eval_steps", "val_check_interval"),
    "log_every": ("logging.every", "log_interval", "logging_steps"),
    "clip_norm": ("grad_clip", "max_grad_norm", "clip", "gradient_clip"),
    "compute_dtype": ("dtype", "precision", "amp"),
    "max_new_tokens": ("max_tokens", "num_tokens", "n_tokens"),
    "b1": ("betas", "beta1", "adam_beta1"),
    "b2": ("beta2", "adam_beta2"),
    "every": ("save_every", "checkpoint_every", "save_steps", "save_interval"),
    "auto": ("flash", "flash_attention", "sdpa", "fa2", "fa3"),
    "float32": ("fp32", "f32", "float", "full"),
    "bfloat16": ("bf16", "bfloat", "bf"),
    "float16": ("fp16", "f16", "half"),
    "path": ("file", "files", "dir", "dataset"),
}
"""Names of this project -> names that other programs, or a hasty hand, give to the same thing."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like `name`, or None when nothing is near."""
    names = list(dict.fromkeys(known))
    folded = {n.lower().replace("-", "_"): n for n in names}
    wanted = name.lower().replace("-", "_")
    if wanted in folded:
        return folded[wanted]
    for ours, theirs in OTHER_NAMES.items():
        if wanted in theirs and ours in names:
            return ours
    close = difflib.get_close_matches(wanted, folded, n=1, cutoff=cutoff)
    if close:
        return folded[close[0]]
    starts = [n for n in names if len(wanted) >= 3 and n.lower().startswith(wanted)]
    return starts[0] if len(starts) == 1 else None


def nearest_key(key: str, beside: Sequence[str], everywhere: Sequence[str]) -> str | None:
    """The full path that `key` probably meant: a neighbour, a key of that name elsewhere, or a similar path.

    `beside` are the names allowed where `key`'s last part stands, `everywhere` all full paths.
    """
    parent, _, last = key.rpartition(".")
    prefix = f"{parent}." if parent else ""
    flat = key.replace(".", "_")
    for path in everywhere:
        if path != key and path.replace(".", "_") == flat:  # trainer.sample_every, trainer.sample.every
            return path
    neighbour = nearest(last, beside)
    if neighbour:
        return prefix + neighbour
    ends: dict[str, list[str]] = {}
    for path in everywhere:
        ends.setdefault(path.rpartition(".")[2], []).append(path)
    for ours, theirs in OTHER_NAMES.items():
        if "." in key and key.lower() in theirs and ours in ends:
            return _closest_path(key, ends[ours])
    if last in ends:
        return _closest_path(key, ends[last])
    for ours, theirs in OTHER_NAMES.items():
        if last.lower() in theirs and ours in ends:
            return _closest_path(key, ends[ours])
    apart = [path for path in everywhere if not key.startswith(f"{path}.")]
    alike = [path for path in apart if _likeness(last, path.rpartition(".")[2]) > 0.5]
    similar = difflib.get_close_matches(key, alike, n=1, cutoff=0.75)
    if similar:
        return similar[0]
    if parent and beside:
        root = key.partition(".")[0]
        ends = {
            name: kept
            for name, paths in ends.items()
            if (kept := [p for p in paths if p.startswith(f"{root}.")])
        }
    name = nearest(last, ends, cutoff=0.8)
    return _closest_path(key, ends[name]) if name else None


def _likeness(left: str, right: str) -> float:
    return difflib.SequenceMatcher(None, left, right).ratio()


def _closest_path(key: str, paths: Sequence[str]) -> str:
    """Of several paths, the shortest; among equals the one most like `key`."""
    return min(paths, key=lambda p: (p.count("."), -difflib.SequenceMatcher(None, key, p).ratio()))
