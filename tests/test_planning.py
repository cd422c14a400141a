"""What a pair will cost: counts against real models, formulas against numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoConfig
from typer.testing import CliRunner

from benchmarks.plan_check import as_markdown as check_table
from benchmarks.plan_check import checked
from spec_rag.cli.app import app
from spec_rag.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from spec_rag.evaluation.planning import costs, processor
from spec_rag.evaluation.planning.costs import OWN_LOOKAHEAD_TOKENS, Pair, break_even, causal_pairs, prefill_flops
from spec_rag.evaluation.planning.devices import Device
from spec_rag.evaluation.planning.plan import Plan, as_markdown, device_of, plan
from spec_rag.evaluation.planning.processor import PassTimes
from spec_rag.evaluation.planning.shapes import KNOWN_SHAPES, ModelShape, model_shape, shape_of_config
from spec_rag.generation import decoding
from spec_rag.options.compression import SpecKVConfig, SpecPCConfig

# 2 layers; attention 4 * 2 * (2 * 2 + 2 * 1) = 48, feed-forward 3 * 4 * 8 = 96: 288 weights; output 10 * 4 = 40
SMALL = ModelShape("small", 2, 4, 8, 2, 1, 2, 10, tied=True)
# 3 layers; attention 8 * 4 * (2 * 2 + 2 * 2) = 256, feed-forward 3 * 8 * 16 = 384: 1,920 weights; output 10 * 8 = 80
LARGE = ModelShape("large", 3, 8, 16, 2, 2, 4, 10, tied=False)
# computing takes the longer: 100 FLOPs a second are reached, and any number of bytes
COMPUTING = Device("computing", 200, 1e12, 1e5, 16, 0.5, 0.5)
# reading takes the longer: 100 bytes a second are reached
READING = Device("reading", 1e12, 200, 1e5, 16, 0.5, 0.5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "kind", ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "granite", "smollm3"]
)
def test_parameters_are_those_of_the_built_model(kind: str, tied: bool) -> None:
    model = tiny_model(kind, tie_word_embeddings=tied)
    assert shape_of_config(model.config).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("SmolLM2-135M", 134_515_008),
        ("SmolLM2-360M", 361_821_120),
        ("SmolLM2-1.7B", 1_711_376_384),
        ("Llama-3.2-1B", 1_235_814_400),
        ("Llama-3.2-3B", 3_212_749_824),
        ("Llama-3.1-8B", 8_030_261_248),
        ("Llama-3.1-70B", 70_553_706_496),
        ("Qwen2.5-0.5B", 494_032_768),
        ("Qwen2.5-7B", 7_615_616_512),
        ("Qwen2.5-14B", 14_770_033_664),
    ],
)
def test_known_models_have_their_published_parameters(name: str, parameters: int) -> None:
    assert KNOWN_SHAPES[name].parameters == parameters


def test_names_are_found_as_the_hub_and_people_write_them() -> None:
    for name in ("meta-llama/Llama-3.1-8B-Instruct", "llama-3-8b", "meta-llama/Meta-Llama-3-8B"):
        assert model_shape(name) == KNOWN_SHAPES["Llama-3.1-8B"]
    with pytest.raises(ConfigError, match=r"'gpt-9' is not known: give one of SmolLM2-135M.* or a folder"):
        model_shape("gpt-9")


def test_a_folder_and_a_config_file_are_read(tmp_path: Path) -> None:
    config = tiny_model("qwen3").config
    config.save_pretrained(tmp_path)
    assert model_shape(str(tmp_path)) == shape_of_config(config, tmp_path.name)
    assert replace(model_shape(str(tmp_path / "config.json")), name="") == replace(shape_of_config(config), name="")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match="no config of a model"):
        model_shape(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (AutoConfig.for_model("mixtral"), "model_type='mixtral'"),
        (AutoConfig.for_model("llama", attention_bias=True), "attention_bias=True"),
    ],
)
def test_what_is_not_counted_is_refused(config: object, says: str) -> None:
    with pytest.raises(UnsupportedModelError, match=says):
        shape_of_config(config)


def test_weights_and_pairs_by_hand() -> None:
    assert (SMALL.layer_weights, SMALL.output_weights) == (288, 40)
    assert SMALL.parameters == 40 + 288 + 2 * 2 * 4 + 4
    assert LARGE.parameters == 80 + 1920 + 3 * 2 * 8 + 8 + 80
    assert (SMALL.read_weights, LARGE.read_weights) == (SMALL.parameters, LARGE.parameters - 80)
    assert SMALL.kv_values(5) == 2 * 2 * 1 * 2 * 5
    assert causal_pairs(4) == 1 + 2 + 3 + 4
    assert causal_pairs(6, 3) == 1 + 2 + 3 + 3 + 3 + 3


def test_a_prefill_and_a_step_by_hand() -> None:
    # 2 FLOPs a weight and token, the output layer once; 4 * 2 heads * 2 wide * 2 layers = 32 a pair
    assert costs.prefill_flops(SMALL, 10) == 2 * 288 * 10 + 2 * 40 + 32 * 55
    assert costs.prefill_flops(SMALL, 10, seen=4) == 2 * 288 * 10 + 2 * 40 + 32 * (10 + 6 * 4)
    assert costs.prefill_flops(SMALL, 10, observers=3) == costs.prefill_flops(SMALL, 10) + 16 * 3 * 10
    assert costs.step_flops(SMALL, 7) == 2 * 288 + 2 * 40 + 32 * 7


def test_dense_by_hand() -> None:
    cost = costs.dense(Pair(SMALL, LARGE, COMPUTING), 100, 20)
    # 4 * 2 * 4 * 3 = 96 a pair
    prefill = 2 * 1920 * 100 + 2 * 80 + 96 * 5050
    step = 2 * 2000 + 96 * 110
    assert cost.draft_seconds == 0
    assert cost.first_token_seconds == pytest.approx(prefill / 100)
    assert cost.token_seconds == pytest.approx(step / 100)
    assert cost.total_seconds == pytest.approx((prefill + 19 * step) / 100)
    assert cost.kv_bytes == 2 * 2 * 3 * 2 * 4 * 100
    assert cost.peak_bytes == 2 * LARGE.parameters + 2 * 2 * 3 * 2 * 4 * 120
    reading = costs.dense(Pair(SMALL, LARGE, READING, pass_seconds=3), 100, 20)
    assert reading.first_token_seconds == pytest.approx(2 * ((LARGE.parameters - 80) + 48 * 100) / 100 + 3)
    assert reading.token_seconds == pytest.approx(2 * ((LARGE.parameters - 80) + 48 * 110) / 100 + 3)


def test_specpc_by_hand() -> None:
    config = SpecPCConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=2)
    cost = costs.specpc(Pair(SMALL, LARGE, COMPUTING), 100, 20, config)
    drafted = 2 * 288 * 100 + 2 * 40 + 32 * 5050 + 16 * 10 * 100
    one_more = 2 * 328 + 32 * 101
    prefill = 2 * 1920 * 40 + 2 * 80 + 96 * 820
    assert cost.draft_seconds == pytest.approx((drafted + one_more) / 100)
    assert cost.prefill_flops == drafted + prefill
    assert cost.first_token_seconds == pytest.approx((drafted + one_more + prefill) / 100)
    assert cost.token_seconds == pytest.approx((2 * 2000 + 96 * 50) / 100)
    assert cost.kv_bytes == 96 * 40
    assert cost.peak_bytes == 2 * (SMALL.parameters + LARGE.parameters + 48 * 60)


def test_speckv_by_hand() -> None:
    config = SpecKVConfig(
        max_capacity_prompt=40, window_size=8, lookahead_tokens=4, prefill_window_size=30, prefill_vertical_size=20
    )
    cost = costs.speckv(Pair(SMALL, LARGE, COMPUTING), 100, 20, config)
    drafted = 2 * 288 * 100 + 2 * 40 + 32 * 5050
    written = 3 * (2 * 328 + 32 * 102)
    prefill = 2 * 1920 * 104 + 2 * 80 + 96 * (50 * 51 / 2 + 54 * 50) + 48 * 12 * 104
    step = 2 * 2000 + 96 * 50
    assert cost.draft_seconds == pytest.approx((drafted + written) / 100)
    assert cost.prefill_seconds == pytest.approx(prefill / 100)
    assert cost.first_token_seconds == pytest.approx((drafted + written + prefill + step) / 100)
    assert cost.kv_bytes == 96 * 40
    # two layers are pruned when the third is read: 2 * 2 * 4 values a token and layer
    assert cost.peak_bytes == 2 * (SMALL.parameters + LARGE.parameters + 16 * (2 * 40 + 104))


def test_both_together_read_the_draft_once_and_the_compressed_prompt_alone() -> None:
    pair, prompt = Pair(SMALL, LARGE, COMPUTING), SpecPCConfig(max_capacity_prompt=80, window_size=8)
    kv = SpecKVConfig(max_capacity_prompt=40, window_size=8, lookahead_tokens=4)
    both = costs.speckv_pc(pair, 100, 20, prompt, kv)
    assert both.prefill_seconds == costs.speckv(pair, 80, 20, kv).prefill_seconds
    scoring = 16 * (8 + 4) * 100 / 100
    assert both.draft_seconds == pytest.approx(costs.speckv(pair, 100, 20, kv).draft_seconds + scoring)
    assert both.kv_bytes == 96 * 40


def test_compress_by_hand() -> None:
    cost = costs.compress(Pair(SMALL, LARGE, COMPUTING), 1200, 20, 40)
    # two passages of 500 tokens and one of 200; 32 tokens of a question over all, and behind each of the three
    read = 2 * 288 * 1200 + 32 * (2 * 500 * 501 / 2 + 200 * 201 / 2)
    asked = 2 * 288 * 32 * 4 + 2 * 40 * 32 * 3 + 32 * 2 * 32 * 1200
    prefill = 2 * 1920 * 40 + 2 * 80 + 96 * 820
    assert cost.draft_seconds == pytest.approx((read + asked) / 100)
    assert cost.prefill_flops == read + asked + prefill
    assert cost.first_token_seconds == pytest.approx((read + asked + prefill) / 100)
    assert cost.token_seconds == pytest.approx((2 * 2000 + 96 * 50) / 100)
    assert cost.kv_bytes == 96 * 40
    indexed = costs.compress(Pair(SMALL, LARGE, COMPUTING), 1200, 20, 40, indexed=True)
    assert indexed.draft_seconds == pytest.approx(asked / 100)


def test_a_target_that_looks_ahead_itself_reads_twice_and_needs_no_draft() -> None:
    config = SpecKVConfig(max_capacity_prompt=40, window_size=8)
    pair = Pair(SMALL, LARGE, COMPUTING)
    cost = costs.speckv(pair, 100, 20, config, own_lookahead=True)
    first = 2 * 1920 * 100 + 2 * 80 + 96 * 5050 + 48 * 8 * 100
    written = OWN_LOOKAHEAD_TOKENS * (2 * 2000 + 96 * (40 + OWN_LOOKAHEAD_TOKENS / 2))
    assert cost.draft_seconds == pytest.approx((first + written) / 100)
    assert cost.peak_bytes < costs.speckv(pair, 100, 20, config).peak_bytes
    assert decoding._OWN_LOOKAHEAD_TOKENS == OWN_LOOKAHEAD_TOKENS


def check_plan(draft: str, target: str) -> Plan:
    return plan(Pair(model_shape(draft), model_shape(target), device_of("h100")), 32768, 2048, prompt_budget=8192)


@pytest.mark.parametrize(
    ("draft", "target", "same"),
    [
        ("Llama-3.2-1B", "Llama-3.1-8B", True),
        ("Llama-3.2-1B", "meta-llama/Llama-3.3-70B-Instruct", True),
        ("Qwen2.5-0.5B", "Qwen2.5-7B", True),
        ("SmolLM2-135M", "SmolLM2-1.7B", True),
        ("SmolLM2-135M", "Llama-3.1-8B", False),
        ("Qwen2.5-0.5B", "Llama-3.1-8B", False),
        ("Llama-3.2-1B", "meta-llama/Meta-Llama-3-8B", False),
    ],
)
def test_a_pair_of_different_tokenizers_is_promised_nothing_that_is_refused(
    draft: str, target: str, same: bool
) -> None:
    found = check_plan(draft, target)
    assert found.same_tokenizer is same
    assert ("SpecPC" in found.methods, "SpecKV-PC" in found.methods) == (same, same)
    assert list(found.refused) == ([] if same else ["SpecPC", "SpecKV-PC"])
    assert {"dense", "compress", "compress, indexed", "SpecKV"} <= found.methods.keys()
    table = as_markdown(found)
    assert table.count("| refused |") == (0 if same else 2)
    assert ("different tokenizers" in table) is not same
    assert found.to_dict()["refused"] == found.refused


def test_tokenizers_of_folders_are_compared(tmp_path: Path) -> None:
    for name, size in (("one", 320), ("same", 320), ("bare", 320), ("other", 900)):
        tiny_model(vocab_size=size).config.save_pretrained(tmp_path / name)
    tokenizer = tiny_tokenizer()
    for name in ("one", "same"):
        tokenizer.save_pretrained(tmp_path / name)
    tokenizer.add_tokens(["glimmer"])
    tokenizer.save_pretrained(tmp_path / "other")
    for other, same in (("same", True), ("other", False), ("bare", None)):
        assert check_plan(str(tmp_path / "one"), str(tmp_path / other)).same_tokenizer is same, other
    assert "not known" in as_markdown(check_plan(str(tmp_path / "one"), str(tmp_path / "bare")))
    assert check_plan(str(tmp_path / "bare"), "SmolLM2-135M").same_tokenizer is False


def test_a_prompt_within_the_budget_costs_what_dense_costs() -> None:
    pair = Pair(SMALL, LARGE, COMPUTING)
    found = plan(pair, 100, 100, 5)
    assert {method.cost for method in found.methods.values()} == {costs.dense(pair, 100, 5)}
    assert found.methods["SpecPC"].pays_from_new_tokens is None


def test_break_even_is_the_first_number_that_gains() -> None:
    assert break_even(lambda n: n - 1000.5, 3, 10**6) == 1001
    assert break_even(lambda n: n - 1000, 3, 10**6) == 1001
    assert break_even(lambda n: 5 - n, 3, 10**6) == 3
    assert break_even(lambda n: n - 100, 3, 100) is None
    assert break_even(lambda n: n - 99, 3, 100) == 100


def test_a_plan_says_from_where_on_a_method_pays() -> None:
    pair = Pair(model_shape("Llama-3.2-1B"), model_shape("Llama-3.1-8B"), device_of("a100"))
    found = plan(pair, 32768, 2048, 64, lookahead_tokens=16)
    for name, method in found.methods.items():
        if name == "dense":
            continue
        assert method.pays_from_context is not None
        for tokens, pays in ((method.pays_from_context, True), (method.pays_from_context - 1, False)):
            there = plan(pair, tokens, 2048, 64, lookahead_tokens=16).methods
            assert (there[name].cost.total_seconds < there["dense"].cost.total_seconds) == pays, name
    swapped = Pair(pair.target, pair.draft, pair.device)
    assert plan(swapped, 32768, 2048, 64).methods["SpecPC"].pays_from_context is None
    assert "never" in as_markdown(plan(swapped, 32768, 2048, 64))


def test_what_does_not_fit_the_device_is_said() -> None:
    seventy = model_shape("Llama-3.1-70B")
    found = plan(Pair(model_shape("Llama-3.1-8B"), seventy, device_of("h100")), 32768, 2048)
    assert not any(method.fits for method in found.methods.values())
    assert as_markdown(found).count("(does not fit)") == len(found.methods) == 5


def test_the_processor_is_measured() -> None:
    device = device_of("cpu")
    assert device.bits == 32
    assert device.flops > 1e8
    assert device.bandwidth > 1e7
    assert device.between_seconds >= 0
    assert device.layer_seconds >= 0


def test_a_processor_s_constants_are_found_again_from_two_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    true = Device("true", 5e10, 8e9, None, 32, 1.0, 1.0, 2e-9, 3e-4)
    monkeypatch.setattr(processor, "random_model", lambda shape: None)

    def timed(model: None, shape: ModelShape, tokens: int, runs: int) -> PassTimes:
        flops, read = prefill_flops(shape, tokens), costs.step_bytes(shape, tokens, 4)
        prefill = flops / true.flops + tokens * shape.layers * shape.hidden * true.between_seconds
        return PassTimes(prefill, read / true.bandwidth + shape.layers * true.layer_seconds)

    monkeypatch.setattr(processor, "timed", timed)
    found = processor.measured_cpu()
    for name in ("flops", "bandwidth", "between_seconds", "layer_seconds"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=1e-6)


def test_noise_never_makes_a_device_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "random_model", lambda shape: None)
    for narrow, wide in ((1.0, 1000.0), (1000.0, 1.0)):
        times = iter((PassTimes(narrow, narrow), PassTimes(wide, wide)))
        monkeypatch.setattr(processor, "timed", lambda *_, times=times: next(times))
        found = processor.measured_cpu()
        assert min(found.flops, found.bandwidth) > 0
        assert min(found.between_seconds, found.layer_seconds) == 0


def test_what_lies_beside_the_products_grows_with_layers_and_tokens() -> None:
    device = Device("idle", 1e30, 1e30, None, 32, 1.0, 1.0, 2e-9, 3e-4)
    pair = Pair(SMALL, LARGE, device)
    assert pair.read(1.0, LARGE, 100) == pytest.approx(LARGE.layers * (3e-4 + 100 * LARGE.hidden * 2e-9))
    assert pair.token_seconds(LARGE, 100) == pytest.approx(LARGE.layers * (3e-4 + LARGE.hidden * 2e-9))


def test_the_command_prints_a_table_or_json_and_names_what_is_wrong() -> None:
    command = ["plan", "--draft", "Qwen2.5-0.5B", "--target", "Qwen2.5-14B", "--context", "32768", "--budget", "2048"]
    shown = CliRunner().invoke(app, [*command, "--prompt-budget", "8192", "--devices", "2"])
    assert shown.exit_code == 0, shown.output
    assert "Qwen2.5-0.5B for Qwen2.5-14B on 2 x h100, 16 bits" in shown.stdout
    assert [line.split(" | ")[0] for line in shown.stdout.splitlines()[4:]] == [
        "| dense",
        "| compress",
        "| compress, indexed",
        "| SpecPC",
        "| SpecKV",
        "| SpecKV-PC",
    ]
    told = json.loads(CliRunner().invoke(app, [*command, "--json", "--device", "l4"]).stdout)
    assert told["pair"]["target"]["parameters"] == 14_770_033_664
    assert told["pair"]["device"]["name"] == "l4"
    assert told["methods"]["dense"]["fits"] is False
    for wrong, says in (
        (["--device", "abacus"], "device='abacus'"),
        (["--bits", "5"], "bits=5"),
        (["--compute-share", "2"], "compute_share=2"),
        (["--prompt-budget", "100"], "prompt_budget=100"),
        (["--budget", "64"], "max_capacity_prompt=64"),
    ):
        refused = CliRunner().invoke(app, [*command, *wrong])
        assert refused.exit_code == 2
        assert says in refused.stderr


def test_predictions_are_set_against_what_passes_take() -> None:
    shape = ModelShape("tiny", 2, 64, 96, 4, 2, 16, 320, tied=True)
    device = Device("abacus", 1e9, 1e9, None, 32, 1.0, 1.0)
    prefill, step = checked([shape], tokens=64, runs=1, device=device)
    pair = Pair(shape, shape, device)
    assert prefill.predicted == pair.read(prefill_flops(shape, 64), shape, 64)
    assert step.predicted == pair.token_seconds(shape, 64)
    assert prefill.measured > 0
    assert replace(step, predicted=2.0, measured=2.5).error == 0.25
    assert check_table([replace(step, predicted=2.0, measured=2.5)]).endswith(
        "| tiny | decoding step | 2 | 2.5 | +25% |"
    )
