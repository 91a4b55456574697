"""Asks transformers what the checkpoints of `options.py` answer; run where it is installed, from the top folder:

python -m tests.models.hf.make_answers
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.models.hf.options import CROSSING, OPTIONS, config_of
from tests.models.hf.seeded import IDS, write_seeded

ANSWERS = Path(__file__).with_name("answers.json")
PLACES = (20, 39)
"""Positions whose logits are kept."""


def answer(folder: Path, crosses: bool) -> dict[str, Any]:
    """Logits at `PLACES`, and the greedy continuation of 20 tokens where the rope changes in it."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(IDS)).logits[0, list(PLACES)]
    found = {"logits": [[round(float(x), 5) for x in row] for row in logits]}
    if crosses:
        settings = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
        found["greedy"] = model.generate(torch.from_numpy(IDS[:, :20]), generation_config=settings)[
            0, 20:
        ].tolist()
    return found


def main() -> None:
    """Writes `ANSWERS`."""
    answers = {}
    for name in OPTIONS:
        with tempfile.TemporaryDirectory() as folder:
            write_seeded(Path(folder), config_of(name))
            answers[name] = answer(Path(folder), name in CROSSING)
        print(name, file=sys.stderr)
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(told)}" for name, told in answers.items())
    ANSWERS.write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main()
