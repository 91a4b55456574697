"""`data=mixture`: several sources by weight."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import ValidationInfo, field_validator

from lmx.config.component import Config, field
from lmx.config.types import NonNegative, Positive
from lmx.data.config import Data, RowSpec

if TYPE_CHECKING:
    from lmx.data.dataset import Dataset
    from lmx.data.tokenizers import TokenizerImpl


class Stage(Config):
    """Other weights from some step on."""

    from_step: Positive = field("the step at which these weights begin")
    weights: dict[str, NonNegative] = field("source -> weight; a source left out is not read")


def check_weights(weights: dict[str, float], info: ValidationInfo) -> None:
    """ValueError for weights of sources that are not there, or that are all zero."""
    sources = info.data.get("sources")
    unknown = sorted(set(weights) - set(sources or weights))
    if unknown:
        raise ValueError(
            f"no source is called {', '.join(unknown)}; the sources are {', '.join(sources or [])}"
        )
    if not any(weights.values()):
        raise ValueError("no source has a weight above 0")


class Mixture(Data):
    """Several sources by weight, exact over every block of examples."""

    sources: dict[str, Data] = field("name -> what is read")
    weights: dict[str, NonNegative] = field("source -> weight, from the first step on")
    stages: list[Stage] = field("later changes of the weights, in order of their steps")
    block: Positive = field("examples over which the weights are exact (rounded to whole examples)")

    @field_validator("sources")
    @classmethod
    def _some_source(cls, sources: dict[str, Data]) -> dict[str, Data]:
        if not sources:
            raise ValueError("no source; add one with '+data@data.sources.NAME=OPTION'")
        return sources

    @field_validator("weights")
    @classmethod
    def _known_weights(cls, weights: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        check_weights(weights, info)
        return weights

    @field_validator("stages")
    @classmethod
    def _stages_in_order(cls, stages: list[Stage], info: ValidationInfo) -> list[Stage]:
        for before, after in pairwise([0, *(stage.from_step for stage in stages)]):
            if after <= before:
                raise ValueError(f"stages must be in order of steps, but from_step={after} follows {before}")
        for stage in stages:
            check_weights(stage.weights, info)
        return stages

    def segmented(self) -> bool:
        """Rows of a mixture are alike: with segments as soon as one source has them."""
        return any(source.segmented() for source in self.sources.values())

    def open(self, tokenizer: TokenizerImpl, wanted: RowSpec) -> Dataset:
        """Builds every source and interleaves them."""
        from lmx.data.mixture import build_mixture

        stages = {0: self.weights} | {stage.from_step: stage.weights for stage in self.stages}
        return build_mixture(self.sources, stages, tokenizer, wanted, block=self.block)
