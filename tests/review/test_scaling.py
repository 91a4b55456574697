"""Which mesh a model wants, and the tables of docs/scaling.md: `python -m tests.review.test_scaling` prints them."""

from __future__ import annotations

from functools import cache

import pytest

from lmx.chips import Chip, chip_named
from lmx.models.flops import decoder_flops
from lmx.models.specs import decoder_specs
from lmx.review.roofline import Split, Work, times, work_of
from lmx.review.scaling import SHARE, best, least_tokens, markdown, splits
from tests.support import ROOT, model_config

LENGTH = 8192
DOCUMENT = ROOT / "docs" / "scaling.md"
MODELS = {"llama3_8b": 4, "llama3_70b": 8, "llama3p1_405b": 16, "deepseek_v3": 64}
"""Model -> tokens of a step, in 2^20; half as many again where the chips are 3 x a power of two."""


@cache
def work(option: str) -> Work:
    config = model_config(option)
    return work_of(config, decoder_specs(config), decoder_flops(config, LENGTH).causal)


def chip(name: str) -> Chip:
    found = chip_named(name)
    assert found is not None
    return found


def tables() -> dict[str, str]:
    found = {}
    for option, millions in MODELS.items():
        tokens = millions * 2**20
        v5p = [
            best(work(option), chip("v5p"), chips=n, slices=1, tokens=t, length=LENGTH)
            for n, t in [(2**k, tokens) for k in range(7, 12)] + [(3072, tokens * 3 // 2)]
        ]
        v6e = [
            best(work(option), chip("v6e"), chips=256, slices=n, tokens=tokens, length=LENGTH)
            for n in (1, 2, 4, 8, 16)
        ]
        found[f"{option} on v5p"] = markdown(v5p)
        found[f"{option} on slices of v6e-256"] = markdown(v6e)
    return found


@pytest.mark.parametrize("title", [f"{m} on {c}" for m in MODELS for c in ("v5p", "slices of v6e-256")])
def test_the_document_shows_what_the_formulas_give(title):
    assert tables()[title] in DOCUMENT.read_text(encoding="utf-8")


def test_the_turning_point_is_where_links_take_as_long_as_arithmetic():
    for name in ("v5e", "v5p", "v6e"):
        assert f"{least_tokens(chip(name)):.0f} tokens" in DOCUMENT.read_text(encoding="utf-8")
    # Just above it a dense model is bound by arithmetic, well below by its links.
    v5p = chip("v5p")
    for part, bound in ((1.3, "compute"), (0.5, "ICI")):
        tokens = int(least_tokens(v5p) * part) * 1024
        found = times(work("llama3_70b"), v5p, Split(fsdp=1024), tokens=tokens)
        assert found.bound == bound


def test_the_plainest_of_equals_and_whole_sequences_for_all():
    row = best(work("llama3_8b"), chip("v5p"), chips=64, slices=1, tokens=2**22, length=LENGTH)
    assert row.split == Split(fsdp=64)
    row = best(work("llama3_8b"), chip("v5p"), chips=1024, slices=1, tokens=2**22, length=LENGTH)
    assert row.split.fsdp <= 2**22 // LENGTH
    with pytest.raises(ValueError, match="one sequence"):
        best(work("llama3_8b"), chip("v5p"), chips=64, slices=1, tokens=2**14, length=LENGTH)


def test_what_does_not_fit_is_taken_only_where_nothing_else_does():
    few = best(work("llama3p1_405b"), chip("v6e"), chips=256, slices=1, tokens=2**24, length=LENGTH)
    assert not few.fits
    assert few.times.state_bytes + few.times.input_bytes > SHARE * chip("v6e").hbm
    assert best(work("llama3p1_405b"), chip("v5p"), chips=256, slices=1, tokens=2**24, length=LENGTH).fits


def test_micro_batches_make_activations_fit_and_cost_traffic():
    row = best(work("llama3p1_405b"), chip("v5p"), chips=256, slices=1, tokens=2**24, length=LENGTH)
    assert row.micro_batches > 1
    whole = times(work("llama3p1_405b"), chip("v5p"), row.split, tokens=2**24)
    assert whole.state_bytes + whole.input_bytes > chip("v5p").hbm
    assert row.times.input_bytes == pytest.approx(whole.input_bytes / row.micro_batches)
    assert row.times.ici > whole.ici
    # 80 layers, 16,384 tokens of a device, 8,192 wide, two bytes: as compiled for v5p:4x4x4 (docs/scaling.md).
    compiled = times(work("llama3_70b"), chip("v5p"), Split(fsdp=64), tokens=64 * 4 * 4096)
    assert compiled.input_bytes == pytest.approx(21.47e9, rel=1e-3)


def test_splits_take_all_chips():
    for chips in (256, 3072):
        for split in splits(work("deepseek_v3"), chips, 2):
            assert split.devices == 2 * chips
            assert split.fsdp % split.expert == 0
            assert work("deepseek_v3").width % split.fsdp == 0  # or lmx would refuse the mesh


if __name__ == "__main__":
    for title, table in tables().items():
        print(f"### {title}\n\n{table}\n")
