"""The tokenizer in a HuggingFace directory: its text, its special tokens, its chat template."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmx.config.foreign import parse_json, quoted
from lmx.data.byte_pairs import TiktokenTokenizer, load_ranks
from lmx.data.chat import Template
from lmx.data.published_ranks import recognise
from lmx.data.tokenizers import (
    HuggingFaceTokenizer,
    TokenizerImpl,
    fingerprint,
    without_surrogates,
)

_SPECIALS = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")


class PretrainedTokenizer(HuggingFaceTokenizer):
    """A `tokenizer.json` with what lies beside it. Added tokens may lie beyond the model's vocabulary (Gemma 3's for
    images in the models of text alone): a text that has one is refused.

    eos_ids         ids that end a generated text: generation_config.json's, else config.json's, else the end token;
                    those beyond the vocabulary, which no model chooses, left out and said
    special_tokens  `bos_token` -> text, ...
    template        the chat template, or None
    generation      generation_config.json: temperature, top_p, ... as the model's authors set them; {} without
    """

    def __init__(self, folder: Path, *, vocab_size: int):
        self.folder = folder
        told = _json(folder / "tokenizer_config.json")
        named = {**_json(folder / "special_tokens_map.json"), **told}
        self.special_tokens = _specials(named, folder)
        tokens = self.special_tokens
        known = _added(folder / "tokenizer.json")
        eos, bos = (tokens.get(f"{kind}_token") for kind in ("eos", "bos"))
        super().__init__(str(folder / "tokenizer.json"), vocab_size=vocab_size, eos=eos, bos=bos)
        self.added_not_special = {text: i for text, (i, special) in known.items() if not special}
        self.generation = _json(folder / "generation_config.json")
        self.eos_ids = _eos_ids(folder, self.generation, vocab_size)
        if not self.eos_ids and self.eos_id is not None:
            self.eos_ids = (self.eos_id,)
        first: int | None = self.eos_ids[0] if self.eos_ids else None
        self.eos_id: int | None = first if self.eos_id is None else self.eos_id
        # Where the configuration says what is added, it stands above the post-processor of tokenizer.json.
        self._ends: tuple[list[int], list[int]] | None = None
        if "add_bos_token" in told or "add_eos_token" in told:
            begin = [self.bos_id] if told.get("add_bos_token") and self.bos_id is not None else []
            end = [self.eos_id] if told.get("add_eos_token") and eos and self.eos_id is not None else []
            self._ends = begin, end
        self.template = _template(folder, told, tokens)

    def _needed(self, ids: Mapping[str, int]) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)

    def encode_prompt(self, text: str) -> np.ndarray:
        """Ids with the special tokens that a text begins and ends with, as the tokenizer's authors set them."""
        if self._ends is None:
            return self._ids(self._tokenizer.encode(without_surrogates(text), add_special_tokens=True).ids)
        begin, end = self._ends
        return np.concatenate([begin, self.encode(text), end]).astype(np.int32)

    def render_chat(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[dict[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """A conversation as the model was taught to read it; ValueError where the template refuses it, or is absent."""
        if self.template is None:
            raise ValueError("the tokenizer has no chat template; give one prompt of plain text instead")
        return self.template.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, **variables
        )

    def decode_text(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the ids, special tokens left out."""
        return self._tokenizer.decode(np.asarray(ids, np.int64).tolist(), skip_special_tokens=True)


class PretrainedRanks(TiktokenTokenizer):
    """The ranks of tiktoken in a directory, cut as those that published them cut; special tokens from
    tokenizer_config.json, else those of the publishers.

    Attributes as of `PretrainedTokenizer`.
    """

    def __init__(self, folder: Path, file: Path, *, vocab_size: int):
        told = _json(folder / "tokenizer_config.json")
        listed = _object(told.get("added_tokens_decoder"), f"{folder}: added_tokens_decoder")
        ranks = load_ranks(str(file))
        known = recognise(ranks, file)
        specials = {_text(token): _id(i, folder) for i, token in listed.items()} or known.specials
        self.special_tokens = _specials(told, folder)
        for kind, text in (("bos", known.bos), ("eos", known.eos)):
            if f"{kind}_token" not in told and text in specials:
                self.special_tokens[f"{kind}_token"] = text
        eos, bos = (self.special_tokens.get(f"{kind}_token") for kind in ("eos", "bos"))
        super().__init__(
            ranks, known.pattern, specials=specials, vocab_size=vocab_size, eos=eos, bos=bos, name=str(file)
        )
        self.folder = folder
        self.generation = _json(folder / "generation_config.json")
        self.eos_ids = _eos_ids(folder, self.generation, vocab_size)
        self.eos_ids = self.eos_ids or (() if self.eos_id is None else (self.eos_id,))
        first: int | None = self.eos_ids[0] if self.eos_ids else None
        self.eos_id: int | None = first if self.eos_id is None else self.eos_id
        begins = told.get("add_bos_token", known.bos is not None)
        self._begin = [self.bos_id] if begins and self.bos_id is not None else []
        self.template = _template(folder, told, self.special_tokens)

    def encode_prompt(self, text: str) -> np.ndarray:
        """Ids after the token that begins a text, where there is one."""
        return np.concatenate([self._begin, self.encode(text)]).astype(np.int32)

    def render_chat(self, messages: Sequence[dict[str, Any]], **knobs: Any) -> str:
        """See `PretrainedTokenizer.render_chat`."""
        if self.template is None:
            raise ValueError("the tokenizer has no chat template; give one prompt of plain text instead")
        return self.template.render(messages, **knobs)


class IdsOnly:
    """Stands for the tokenizer of a directory that has none: ids in, ids out."""

    def __init__(self, folder: Path, *, vocab_size: int):
        self._folder = folder
        self.vocab_size, self.name = vocab_size, f"ids of {folder}"
        self.generation = _json(folder / "generation_config.json")
        self.eos_ids = _eos_ids(folder, self.generation, vocab_size)
        self.eos_id: int | None = self.eos_ids[0] if self.eos_ids else None
        self.bos_id: int | None = None
        self.name = "ids alone"
        self.hash = fingerprint(kind="ids", size=vocab_size)

    @property
    def token_bytes(self) -> np.ndarray:
        """int32 [V], all 0: what an id stands for is not known."""
        return np.zeros(self.vocab_size, np.int32)

    def encode(self, text: str) -> np.ndarray:
        """ValueError: there is nothing to encode with."""
        raise ValueError(
            f"{self._folder}: has no tokenizer.json, so text has no ids here; give ids instead, or copy the "
            "tokenizer.json of the model into it"
        )

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `encode`."""
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """See `decode`."""
        return self.decode(ids).encode()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The ids themselves, in brackets."""
        return " ".join(f"[{i}]" for i in np.asarray(ids).tolist())


def open_tokenizer(path: str, *, vocab_size: int) -> TokenizerImpl:
    """The tokenizer in a HuggingFace directory, or an `IdsOnly` where there is none.

    ValueError for files that cannot be read.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"tokenizer.path={path}: no such directory; give the HuggingFace directory of the tokenizer"
        )
    if (folder / "tokenizer.json").is_file():
        return PretrainedTokenizer(folder, vocab_size=vocab_size)
    for file in [*sorted(folder.glob("*.tiktoken")), folder / "tokenizer.model"]:
        if file.is_file() and _holds_ranks(file):
            return PretrainedRanks(folder, file, vocab_size=vocab_size)
    others = [name for name in ("tokenizer.model", "vocab.json") if (folder / name).is_file()]
    if others:
        raise ValueError(
            f"{folder}: has {others[0]}, but no tokenizer.json, which is what is read; make one where transformers "
            f'is installed:\n    python -c "from transformers import AutoTokenizer as T; '
            f"T.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    return IdsOnly(folder, vocab_size=vocab_size)


def _holds_ranks(file: Path) -> bool:
    """Whether a file holds ranks of tiktoken: lines of base64 and a number, not SentencePiece's binary."""
    with file.open("rb") as stream:
        words = stream.readline(4096).split()
    return len(words) == 2 and words[1].isdigit()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds no object")
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    """`value`, {} for null; ValueError where it is something else."""
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{what} is {quoted(value)}, where an object belongs")
    return value or {}


def _model_eos(folder: Path) -> Any:
    """`eos_token_id` of a model's config.json, or of the copy that a run keeps; null inside a text_config's too."""
    told = _json(folder / "config.json") or _json(folder / "model_config.json")
    ids = told.get("eos_token_id")
    inner = _object(told.get("text_config"), f"{folder}: text_config of config.json")
    return inner.get("eos_token_id") if ids is None else ids


def _text(token: Any) -> str:
    """A special token, spelled as text or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise ValueError(f"a special token is {quoted(token)}, where a text belongs")
    return text


def _specials(named: dict[str, Any], file: Path) -> dict[str, str]:
    """`bos_token` -> text, ..., of those that a file has."""
    try:
        return {
            f"{kind}_token": _text(named[f"{kind}_token"])
            for kind in _SPECIALS
            if named.get(f"{kind}_token") is not None
        }
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _ids(value: Any, folder: Path) -> tuple[int, ...]:
    """`eos_token_id` as a list; ValueError where it is none."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 1 << 31 for i in listed):
        raise ValueError(f"{folder}: eos_token_id is {quoted(value)}, where ids belong")
    return tuple(listed)


def _eos_ids(folder: Path, generation: dict[str, Any], vocab_size: int) -> tuple[int, ...]:
    """The ids that end a text as the directory says them."""
    ids = _ids(generation.get("eos_token_id"), folder) or _ids(_model_eos(folder), folder)
    beyond = [i for i in ids if i >= vocab_size]
    if beyond:
        logging.getLogger(__name__).warning(
            "%s: eos_token_id %s is beyond the vocabulary of %d, so that no text ends with it",
            folder,
            ", ".join(map(str, beyond)),
            vocab_size,
        )
    return tuple(i for i in ids if i < vocab_size)


def _id(spelled: str, folder: Path) -> int:
    if not (spelled.isdecimal() and len(spelled) < 10):
        raise ValueError(f"{folder}: added_tokens_decoder names {quoted(spelled)}, where an id belongs")
    return int(spelled)


def _added(path: Path) -> dict[str, tuple[int, bool]]:
    """Text -> (id, special) of the `added_tokens`; ValueError where they are none."""
    listed = _json(path).get("added_tokens") or []
    try:
        return {token["content"]: (token["id"], bool(token.get("special"))) for token in listed}
    except (AttributeError, KeyError, TypeError):
        raise ValueError(
            f"{path}: added_tokens is {quoted(listed)}, where a list of tokens belongs"
        ) from None


def _template(folder: Path, told: dict[str, Any], tokens: dict[str, str]) -> Template | None:
    """`chat_template.jinja`, else `chat_template` of tokenizer_config.json: one text, or several by name."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return Template({"default": _read_text(file)}, tokens, file)
    file = folder / "tokenizer_config.json"
    source: Any = told.get("chat_template")
    if source is None:
        file = folder / "chat_template.json"
        source = _json(file).get("chat_template")
    if isinstance(source, list):
        parts = [_object(entry, f"{file}: an entry of chat_template") for entry in source]
        named: list[tuple[Any, Any]] = [(part.get("name"), part.get("template")) for part in parts]
    elif isinstance(source, dict):
        named = list(source.items())
    else:
        named = [("default", source)] if source else []
    if not named:
        return None
    if not all(isinstance(text, str) for pair in named for text in pair):
        raise ValueError(
            f"{file}: chat_template is {quoted(source)}, where a text belongs, or texts with their names"
        )
    return Template(dict(named), tokens, file)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is no text (UTF-8)") from None
