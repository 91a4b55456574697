"""`lmx chat`: a conversation, a line a message; the replies go to stdout, all else to stderr.

With a chat template the model reads what its authors taught it. Without one it reads plain text: the system message
and an empty line first, then every message as a line `User: ...` or `Assistant: ...`, and a reply ends where the
model writes `User:` at the start of a line.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lmx.config.errors import RequestError, requests
from lmx.data.chat import as_message
from lmx.infer.engine import Engine
from lmx.infer.requests import Request, Result
from lmx.run.engine import encode_prompt, make_engine
from lmx.run.generate import SMOOTH
from lmx.run.infer_config import ChatConfig
from lmx.run.load import Loaded, load
from lmx.run.sampling import sampling_knobs
from lmx.run.templates import templated_ids

HELP = """\
  /system TEXT          begin anew with this system message (without TEXT: with none)
  /reset                begin anew, the system message stays
  /save FILE            write the conversation as JSON
  /settings             show how replies are made
  /settings KEY=VALUE   change it: temperature=0.5, top_p=null, ...
  /help                 this list
  /quit                 end (so does the end of the input)"""

_PLAIN_STOP = "\nUser:"
_SETTINGS = (
    *("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "logit_bias", "stop", "stop_tokens", "seed", "ignore_eos", "generation_config"),
    *("tools", "chat_template_kwargs"),
)


class Conversation:
    """Messages so far, the settings, and the engine that answers."""

    def __init__(self, config: ChatConfig, loaded: Loaded, engine: Engine) -> None:
        self.config, self.loaded, self.engine = config, loaded, engine
        self.system = config.system
        self.messages: list[dict[str, str]] = []
        self.reset()

    @property
    def templated(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return getattr(self.loaded.tokenizer, "template", None) is not None

    def reset(self) -> None:
        """Forgets all but the system message."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    def prompt(self) -> list[int]:
        """The conversation as the model reads it, up to its reply; ValueError where the template refuses."""
        tokenizer = self.loaded.tokenizer
        if self.templated:
            return templated_ids(tokenizer, self.messages, self.config)
        names = {"user": "User", "assistant": "Assistant"}
        lines = [
            f"{names[m['role']]}: {m['content']}\n" if m["role"] in names else f"{m['content']}\n\n"
            for m in self.messages
        ]
        return encode_prompt(tokenizer, "".join(lines) + "Assistant:")

    def answer(self, text: str) -> str:
        """The reply to a message, printed as it comes. ValueError, and nothing remembered, when there can be none."""
        self.messages.append({"role": "user", "content": text})
        try:
            reply = self._reply()
        except BaseException:
            self.messages.pop()
            raise
        self.messages.append(as_message(reply) if self.templated else {"role": "assistant", "content": reply})
        return reply

    def _reply(self) -> str:
        ids = self.prompt()
        knobs = sampling_knobs(self.loaded, self.config)
        if not self.templated:
            knobs["stop"] = [*knobs["stop"], _PLAIN_STOP]
        limit = self.engine.max_length
        if limit is not None:
            if len(ids) >= limit:
                raise ValueError(
                    f"the conversation has {len(ids)} tokens, and the model {limit} positions; /reset begins anew"
                )
            knobs["max_new_tokens"] = min(knobs["max_new_tokens"], limit - len(ids))
        results: list[Result | None] = [None]
        started = False
        for delta in self.engine.stream([Request(tokens=ids, **knobs)], results):
            text = delta.text if started else delta.text.lstrip()
            started = started or bool(text)
            print(text, end="", flush=True)
        print(flush=True)
        assert results[0] is not None
        return results[0].text.strip()

    def command(self, line: str) -> bool:
        """Does what a line beginning with / asks; whether the conversation goes on. ValueError for a wrong one."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name in ("/quit", "/exit"):
            return False
        if name == "/help":
            _say(HELP)
        elif name == "/system":
            self.system = rest or None
            self.reset()
            _say("begun anew" + (f", system: {rest}" if rest else ", no system message"))
        elif name == "/reset":
            self.reset()
            _say("begun anew")
        elif name == "/save":
            self._save(rest)
        elif name == "/settings":
            self._settings([w for w in re.split(r"\s+(?=\w+=)", rest) if w])
        else:
            raise ValueError(f"there is no command {name}; /help lists them")
        return True

    def _save(self, name: str) -> None:
        if not name:
            raise ValueError("/save needs a file: /save conversation.json")
        path = Path(name).expanduser()
        whole = {"from": self.config.source, "messages": self.messages}
        path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _say(f"saved {path}")

    def _settings(self, changes: list[str]) -> None:
        values = self.config.model_dump(by_alias=True)
        for change in changes:
            key, equals, value = change.partition("=")
            if key not in _SETTINGS or not equals:
                raise ValueError(f"/settings {change}: give KEY=VALUE with one of {', '.join(_SETTINGS)}")
            try:
                values[key] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise ValueError(f"/settings {change}: the value is not YAML") from None
        try:
            self.config = ChatConfig.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"/settings {'.'.join(map(str, first['loc'][:1]))}: {first['msg']}") from None
        _say("  ".join(f"{key}={json.dumps(getattr(self.config, key))}" for key in _SETTINGS))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _check_templated(loaded: Loaded, config: ChatConfig) -> None:
    """ValueError for what is meant for a chat template where there is none."""
    for key in ("tools", "chat_template_kwargs"):
        if getattr(config, key) is not None and getattr(loaded.tokenizer, "template", None) is None:
            raise ValueError(f"{key}: from={config.source} has no chat template")


def chat(composed: Any, run_dir: Path) -> None:
    """Reads messages and commands from stdin until it ends; in a pipe, the first error ends it too (exit code 2)."""
    config: ChatConfig = composed.config
    watched = sys.stdin.isatty()
    with requests():
        loaded = load(
            config.source, config.dtype, which=config.which, weights=config.weights, mesh=config.mesh
        )
        if loaded.tokenizer is None:
            raise ValueError(f"from={config.source}: has no tokenizer, so there is no text to talk in")
        sampling_knobs(loaded, config)
        _check_templated(loaded, config)
        steps = {"steps": SMOOTH} if sys.stdout.isatty() else {}
        engine = make_engine(loaded, config.dtype, max_batch=1, **steps)
        talk = Conversation(config, loaded, engine)
    if watched:
        how = "its chat template" if talk.templated else "plain text, User: and Assistant:"
        _say(f"{config.source} by {how}; /help lists the commands")
    while True:
        try:
            line = input("> ") if watched else sys.stdin.readline()
        except EOFError:
            return
        if not watched and not line:
            return
        line = line.strip()
        if not line:
            continue
        try:
            if line.startswith("/"):
                if not talk.command(line):
                    return
            else:
                talk.answer(line)
        except (ValueError, OSError) as error:
            if not watched:
                raise RequestError(str(error)) from error
            _say(str(error))
        except KeyboardInterrupt:
            _say("\ninterrupted; /quit ends")
