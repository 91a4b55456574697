"""Published models: as many parameters as their authors count, and a family for each that has one."""

import pytest

from lmx.config.errors import RequestError
from lmx.models.hf.checkpoint import choose_family
from lmx.models.specs import decoder_specs
from lmx.params import count
from tests.support import CONF, model_config

COUNTS = {
    "deepseek_v2": 235_741_434_880,
    "deepseek_v2_lite": 15_706_484_224,
    "deepseek_v3": 671_026_419_200,
    "gemma2_27b": 27_227_128_320,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma3_12b": 11_766_034_176,
    "gemma3_1b": 999_885_952,
    "gemma3_270m": 268_098_176,
    "gemma3_27b": 27_009_346_304,
    "gemma3_4b": 3_880_263_168,
    "gemma_2b": 2_506_172_416,
    "gemma_7b": 8_537_680_896,
    "gpt2": 124_439_808,
    "gpt2_large": 774_030_080,
    "gpt2_medium": 354_823_168,
    "gpt2_xl": 1_557_611_200,
    "gpt_oss_120b": 116_829_156_672,
    "gpt_oss_20b": 20_914_757_184,
    "llama1_13b": 13_015_864_320,
    "llama1_30b": 32_528_943_616,
    "llama1_65b": 65_285_660_672,
    "llama1_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama2_7b": 6_738_415_616,
    "llama3_70b": 70_553_706_496,
    "llama3_8b": 8_030_261_248,
    "llama3p1_405b": 405_853_388_800,
    "llama3p1_70b": 70_553_706_496,
    "llama3p1_8b": 8_030_261_248,
    "llama3p2_1b": 1_235_814_400,
    "llama3p2_3b": 3_212_749_824,
    "llama3p3_70b": 70_553_706_496,
    "llama4_maverick": 400_711_848_960,
    "llama4_scout": 107_769_861_120,
    "ministral_8b": 8_019_808_256,
    "mistral_7b": 7_241_732_096,
    "mistral_7b_v0p2": 7_241_732_096,
    "mistral_7b_v0p3": 7_248_023_552,
    "mistral_large_123b": 122_610_069_504,
    "mistral_nemo_12b": 12_247_782_400,
    "mistral_small_22b": 22_247_282_688,
    "mistral_small_24b": 23_572_403_200,
    "mixtral_8x22b": 140_620_634_112,
    "mixtral_8x7b": 46_702_792_704,
    "olmo2_13b": 13_716_198_400,
    "olmo2_1b": 1_484_916_736,
    "olmo2_32b": 32_234_279_936,
    "olmo2_7b": 7_298_617_344,
    "olmo3_32b": 32_233_522_176,
    "olmo3_7b": 7_298_011_136,
    "phi3_medium_4k": 13_960_238_080,
    "phi3_mini_128k": 3_821_079_552,
    "phi3_mini_4k": 3_821_079_552,
    "phi3p5_mini": 3_821_079_552,
    "phi4_14b": 14_659_507_200,
    "phi4_mini": 3_836_021_760,
    "qwen2_0p5b": 494_032_768,
    "qwen2_1p5b": 1_543_714_304,
    "qwen2_72b": 72_706_203_648,
    "qwen2_7b": 7_615_616_512,
    "qwen2p5_0p5b": 494_032_768,
    "qwen2p5_14b": 14_770_033_664,
    "qwen2p5_1p5b": 1_543_714_304,
    "qwen2p5_32b": 32_763_876_352,
    "qwen2p5_3b": 3_085_938_688,
    "qwen2p5_72b": 72_706_203_648,
    "qwen2p5_7b": 7_615_616_512,
    "qwen3_0p6b": 596_049_920,
    "qwen3_14b": 14_768_307_200,
    "qwen3_1p7b": 1_720_574_976,
    "qwen3_235b_a22b": 235_093_634_560,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_32b": 32_762_123_264,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "smollm3_3b": 3_075_098_624,
    "starcoder2_15b": 15_957_889_024,
    "starcoder2_3b": 3_030_371_328,
    "starcoder2_7b": 7_173_923_840,
    "starcoder_15b": 15_517_456_384,
    "starcoder_1b": 1_137_207_296,
    "starcoder_3b": 3_043_311_104,
    "starcoder_7b": 7_327_263_232,
}

OWN = ("moe_tiny", "nano", "nanogpt_jax", "pretrained", "tiny")
"""Options of this project's own making."""

OWN_FAMILY = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gpt2": "gpt2",
    "llama2": "llama",
    "ministral": "ministral",
    "olmo2": "olmo2",
    "olmo3": "olmo3",
    "qwen2": "qwen2",
    "qwen2p5": "qwen2",
    "starcoder": "gpt_bigcode",
    "starcoder2": "starcoder2",
}
"""Models that no earlier family holds; an unwindowed Mistral, say, is a Llama as well."""


def test_every_published_model_is_counted():
    options = {p.stem for p in (CONF / "model").glob("*.yaml") if not p.stem.startswith("_")}
    assert options - set(OWN) == set(COUNTS)


@pytest.mark.parametrize("option", COUNTS)
def test_parameters(option):
    assert count(decoder_specs(model_config(option))) == COUNTS[option]


@pytest.mark.parametrize("option", COUNTS)
def test_some_family_holds_it(option):
    config = model_config(option)
    try:
        family, _ = choose_family(config, decoder_specs(config), {"max_position_embeddings": 131072})
    except RequestError as error:
        pytest.fail(str(error))
    assert family.model_type == OWN_FAMILY.get(option.split("_")[0], family.model_type)
