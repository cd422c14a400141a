"""Tokens and bytes of each method: counts against real models, formulas against numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoConfig
from typer.testing import CliRunner

from spec_rag.cli.app import app
from spec_rag.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from spec_rag.evaluation.memory_plan import TARGET_LOOKAHEAD_TOKENS, Plan, PlanRequest, as_markdown, plan
from spec_rag.evaluation.model_shapes import KNOWN_SHAPES, ModelShape, model_shape, shape_of_config
from spec_rag.generation import prefill

# 2 layers; attention 4 * 2 * (2 * 2 + 2 * 1) = 48, feed-forward 3 * 4 * 8 = 96: 288 weights; output 10 * 4 = 40
SMALL = ModelShape("small", 2, 4, 8, 2, 1, 2, 10, tied=True)
# 3 layers; attention 8 * 4 * (2 * 2 + 2 * 2) = 256, feed-forward 3 * 8 * 16 = 384: 1,920 weights; output 10 * 8 = 80
LARGE = ModelShape("large", 3, 8, 16, 2, 2, 4, 10, tied=False)
WEIGHTS = SMALL.parameters + LARGE.parameters
# values of a token's keys and values: 2 * 2 layers * 1 head * 2 wide, and 2 * 3 * 2 * 4
SMALL_KV, LARGE_KV = 8, 48


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
    with pytest.raises(ModelNotFoundError, match="no readable config"):
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


def test_weights_by_hand() -> None:
    assert (SMALL.layer_weights, SMALL.output_weights) == (288, 40)
    assert SMALL.parameters == 40 + 288 + 2 * 2 * 4 + 4
    assert LARGE.parameters == 80 + 1920 + 3 * 2 * 8 + 8 + 80
    assert (SMALL.kv_values(1), LARGE.kv_values(1)) == (SMALL_KV, LARGE_KV)


def small_plan(context: int = 400, budget: int = 160, new_tokens: int = 20, **request: object) -> Plan:
    # at most 16 bits: 2 bytes a value
    return plan(PlanRequest(SMALL, LARGE, context, budget, new_tokens, **request))  # type: ignore[arg-type]


def counts(planned: Plan, method: str) -> tuple[int, int, int, int]:
    found = planned.methods[method]
    return found.draft_tokens, found.lookahead_tokens, found.target_tokens, found.kv_tokens


def test_token_counts_by_hand() -> None:
    planned = small_plan(prompt_budget=300)
    assert counts(planned, "dense") == (0, 0, 400, 400)
    assert counts(planned, "compress") == (400, 0, 160, 160)
    assert counts(planned, "compress, indexed") == (0, 0, 160, 160)
    assert counts(planned, "SpecPC") == (400, 1, 160, 160)
    assert counts(planned, "SpecKV") == (400, 20, 420, 160)
    assert counts(planned, "SpecKV-PC") == (400, 20, 320, 160)
    assert counts(small_plan(lookahead_tokens=4), "SpecKV") == (400, 4, 404, 160)


def test_bytes_by_hand() -> None:
    methods = small_plan(prompt_budget=300).methods
    assert methods["dense"].kv_bytes == 2 * LARGE_KV * 400
    assert methods["dense"].peak_bytes == 2 * (LARGE.parameters + LARGE_KV * 420)
    for name in methods.keys() - {"dense"}:
        assert methods[name].kv_bytes == 2 * LARGE_KV * 160
    # the answer's end needs most: 48 * 180 values against the draft's 8 * 401
    for name in ("compress", "compress, indexed", "SpecPC"):
        assert methods[name].peak_bytes == 2 * (WEIGHTS + LARGE_KV * 180)
    # two layers are pruned when the third is read: 2 * 2 * 4 values a token and layer
    assert methods["SpecKV"].peak_bytes == 2 * (WEIGHTS + 16 * (2 * 160 + 420))
    assert methods["SpecKV-PC"].peak_bytes == 2 * (WEIGHTS + 16 * (2 * 160 + 320))
    long = small_plan(context=4000).methods["SpecPC"]
    assert long.peak_bytes == 2 * (WEIGHTS + SMALL_KV * 4001), "the draft's keys and values are the most"
    assert small_plan(bits=8).methods["SpecKV"].peak_bytes == methods["SpecKV"].peak_bytes / 2


def test_a_target_that_writes_the_look_ahead_reads_twice_and_needs_no_draft() -> None:
    draft, target = replace(SMALL, tokenizer="a"), replace(LARGE, tokenizer="b")
    planned = plan(PlanRequest(draft, target, 400, 160, 20))
    assert counts(planned, "SpecKV") == (0, TARGET_LOOKAHEAD_TOKENS, 800 + TARGET_LOOKAHEAD_TOKENS, 160)
    peak = 2 * (LARGE.parameters + 16 * (2 * 160 + 400 + TARGET_LOOKAHEAD_TOKENS))
    assert planned.methods["SpecKV"].peak_bytes == max(peak, 2 * (LARGE.parameters + LARGE_KV * 180))
    assert prefill._OWN_LOOKAHEAD_TOKENS == TARGET_LOOKAHEAD_TOKENS


def check_plan(draft: str, target: str) -> Plan:
    return plan(PlanRequest(model_shape(draft), model_shape(target), 32768, 2048, prompt_budget=8192))


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
    planned = check_plan(draft, target)
    assert planned.same_tokenizer is same
    assert ("SpecPC" in planned.methods, "SpecKV-PC" in planned.methods) == (same, same)
    assert list(planned.refused) == ([] if same else ["SpecPC", "SpecKV-PC"])
    assert {"dense", "compress", "compress, indexed", "SpecKV"} <= planned.methods.keys()
    table = as_markdown(planned)
    assert table.count("| refused |") == (0 if same else 2)
    assert ("different tokenizers" in table) is not same
    assert planned.to_dict()["refused"] == planned.refused


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
    assert "is unknown" in as_markdown(check_plan(str(tmp_path / "one"), str(tmp_path / "bare")))
    assert check_plan(str(tmp_path / "bare"), "SmolLM2-135M").same_tokenizer is False


def test_a_prompt_within_the_budget_takes_what_dense_takes() -> None:
    planned = small_plan(context=160, prompt_budget=300)
    assert set(planned.methods.values()) == {planned.methods["dense"]}


def test_what_does_not_fit_the_device_is_marked() -> None:
    eight, seventy = model_shape("Llama-3.1-8B"), model_shape("Llama-3.1-70B")
    planned = plan(PlanRequest(eight, seventy, 32768, 2048, memory_bytes=80e9))
    assert not any(method.fits for method in planned.methods.values())
    assert as_markdown(planned).count("(does not fit)") == len(planned.methods) == 5
    assert plan(PlanRequest(eight, seventy, 32768, 2048)).methods["dense"].fits is None


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
    values = json.loads(CliRunner().invoke(app, [*command, "--json", "--device", "l4"]).stdout)
    assert values["request"]["target"]["parameters"] == 14_770_033_664
    assert values["methods"]["dense"]["fits"] is False
    on_cpu = json.loads(CliRunner().invoke(app, [*command, "--json", "--device", "cpu"]).stdout)
    assert (on_cpu["request"]["bits"], on_cpu["methods"]["dense"]["fits"]) == (32, None)
    for wrong, says in (
        (["--device", "abacus"], "device='abacus'"),
        (["--bits", "5"], "bits=5"),
        (["--prompt-budget", "100"], "prompt_budget=100"),
        (["--budget", "64"], "max_capacity_prompt=64"),
    ):
        refused = CliRunner().invoke(app, [*command, *wrong])
        assert refused.exit_code == 2
        assert says in refused.stderr
