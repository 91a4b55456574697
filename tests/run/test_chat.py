"""`lmx chat` on a terminal: a conversation by the model's own template, shown as it comes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from tests.support import ROOT, write_pretrained

TOKENIZER = ROOT.parent / "shared" / "parity" / "tokenizers" / "bytelevel_chatml"

pytestmark = pytest.mark.skipif(not TOKENIZER.is_dir(), reason="the parity fixtures are not here")


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(self, words, cwd):
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            "LMX_ENVIRONMENT": "set",
        }
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "lmx", *words]
        self.process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=slave, stdout=slave, stderr=slave, close_fds=True
        )
        os.close(slave)

    def until(self, pattern, timeout=300):
        """What is shown up to a match of `pattern`, and how many pieces it came in."""
        shown, pieces, end = b"", 0, time.monotonic() + timeout
        while not re.search(pattern, shown.decode(errors="replace")):
            assert time.monotonic() < end, shown
            if select.select([self.master], [], [], 1)[0]:
                try:
                    piece = os.read(self.master, 65536)
                except OSError:
                    break
                shown, pieces = shown + piece, pieces + 1
        return shown.decode(), pieces

    def say(self, line):
        os.write(self.master, line.encode() + b"\n")


def test_a_conversation_on_a_terminal(tmp_path):
    write_pretrained(tmp_path / "model", tokenizer=TOKENIZER)
    favourite = 35  # of the vocabulary: a letter
    words = ["chat", "from=model", "temperature=0", "max_new_tokens=48", f"logit_bias={{{favourite}: 1000}}"]
    terminal = Terminal(words, tmp_path)
    shown, _ = terminal.until(r"> $")
    assert "its chat template" in shown
    terminal.say("hello")
    shown, pieces = terminal.until(r"\n> $")
    reply = shown.split("\n")[1].strip()
    assert len(set(reply)) == 1
    assert len(reply) == 48
    assert pieces > 2  # as it comes, not at the end
    terminal.say("/system Be brief.")
    terminal.until(r"begun anew.*\n> $")
    terminal.say("and now?")
    terminal.until(rf"{re.escape(reply)}\s*\n> $")
    terminal.say("/nonsense")
    shown, _ = terminal.until(r"\n> $")
    assert "/help lists them" in shown
    terminal.say("/save talk.json")
    terminal.until(r"saved.*\n> $")
    terminal.say("/quit")
    assert terminal.process.wait(60) == 0
    assert json.loads((tmp_path / "talk.json").read_text())["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "and now?"},
        {"role": "assistant", "content": reply},
    ]


def test_the_template_is_what_the_model_reads_and_a_refusal_is_told(tmp_path):
    folder = write_pretrained(tmp_path / "model", tokenizer=TOKENIZER)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told["chat_template"] = "{{ raise_exception('only poems') }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "LMX_ENVIRONMENT": "set"}
    done = subprocess.run(
        [sys.executable, "-m", "lmx", "chat", "from=model"],
        cwd=tmp_path,
        env=environment,
        input="hello\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert "tokenizer_config.json refuses this conversation: only poems" in done.stderr
    assert "Traceback" not in done.stderr
