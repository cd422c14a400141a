"""SpecKVLLM, in the style of langchain-tests, which has no suite for LLMs."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from integrations.langchain.helpers import PLAIN_TEMPLATE, Steps, Watching, scripted, tiny_pair
from integrations.tiny_llamas import byte_tokenizer
from langchain_core.caches import InMemoryCache
from langchain_core.outputs import Generation, LLMResult
from langchain_core.prompts import PromptTemplate
from langchain_spec_rag import ChatSpecKV, SpecKVLLM
from pydantic import ValidationError

from spec_rag import LoadOptions, SpecKVConfig, SpecPCConfig, generate
from spec_rag.errors import ConfigError, IncompatibleModelsError, SpecRagError
from spec_rag.generation import generate as pipeline
from spec_rag.models.model_pair import ModelPair
from spec_rag.options.loading import DEFAULT_DRAFT

PROMPT = "Tell me everything about the mule that carried the first lens up the mountain."


@pytest.fixture
def llm(pair: ModelPair, speckv: SpecKVConfig) -> SpecKVLLM:
    return SpecKVLLM(pair=pair, speckv=speckv, max_tokens=12)


async def results(llm: SpecKVLLM, prompt: str = PROMPT, **settings: Any) -> dict[str, LLMResult]:
    """What the callbacks were told at the end, per way of calling."""
    watching = {way: Watching() for way in ("invoke", "stream", "batch", "ainvoke", "astream", "abatch")}
    config = {way: {"callbacks": [one]} for way, one in watching.items()}
    llm.invoke(prompt, config["invoke"], **settings)
    list(llm.stream(prompt, config["stream"], **settings))
    llm.batch([prompt], config["batch"], **settings)
    await llm.ainvoke(prompt, config["ainvoke"], **settings)
    [_ async for _ in llm.astream(prompt, config["astream"], **settings)]
    await llm.abatch([prompt], config["abatch"], **settings)
    return {way: one.results[0] for way, one in watching.items()}


class TestAnswers:
    async def test_are_the_same_however_asked(self, llm: SpecKVLLM) -> None:
        texts = {way: result.generations[0][0].text for way, result in (await results(llm)).items()}
        assert set(texts.values()) == {llm.invoke(PROMPT)}
        assert len(texts["invoke"]) == 12

    def test_are_the_core_s(self, llm: SpecKVLLM, pair: ModelPair, speckv: SpecKVConfig) -> None:
        turn = [{"role": "user", "content": PROMPT}]
        assert llm.invoke(PROMPT) == generate(pair, turn, speckv=speckv, max_new_tokens=12).text

    def test_without_the_chat_template_continue_the_prompt(self, pair: ModelPair) -> None:
        llm = SpecKVLLM(pair=pair, use_chat_template=False, max_tokens=12)
        assert llm.invoke(PROMPT) == generate(pair, PROMPT, max_new_tokens=12).text
        assert llm.invoke(PROMPT) != llm.invoke(PROMPT, use_chat_template=True)

    def test_a_tokenizer_without_template_reads_plain_text(self, pair: ModelPair) -> None:
        plain = tiny_pair(template=None)
        assert SpecKVLLM(pair=plain, max_tokens=5).invoke(PROMPT) == generate(plain, PROMPT, max_new_tokens=5).text

    def test_of_a_batch_are_one_batch_on_the_target(self, llm: SpecKVLLM, pair: ModelPair) -> None:
        prompts = [PROMPT, "Who closed the gate in the long winter, and with which key?", "Hello"]
        alone = [llm.invoke(prompt) for prompt in prompts]
        with Steps(pair) as steps:
            assert llm.batch(prompts) == alone
        with Steps(pair) as one:
            llm.invoke(prompts[0])
        assert steps.count <= one.count + 1

    def test_in_a_chain(self, llm: SpecKVLLM) -> None:
        chain = PromptTemplate.from_template("Tell me everything about {what}.") | llm
        assert chain.invoke({"what": "snow"}) == llm.invoke("Tell me everything about snow.")

    def test_no_prompts_no_generations(self, llm: SpecKVLLM) -> None:
        assert llm.batch([]) == []
        assert llm.generate([]).generations == []


class TestUsage:
    async def test_is_the_same_however_asked(self, llm: SpecKVLLM, pair: ModelPair) -> None:
        infos = [result.generations[0][0].generation_info for result in (await results(llm)).values()]
        turn = [{"role": "user", "content": PROMPT}]
        answer = generate(pair, turn, max_new_tokens=12)
        for info in infos:
            assert info["token_usage"] == {
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": 12,
                "total_tokens": answer.prompt_tokens + 12,
            }
            assert info["finish_reason"] == "length"
            assert info["model_name"] == "tiny-target"

    def test_of_a_batch_is_in_llm_output(self, llm: SpecKVLLM) -> None:
        result = llm.generate([PROMPT, "Hello"])
        each = [generation[0].generation_info["token_usage"] for generation in result.generations]
        assert result.llm_output["model_name"] == "tiny-target"
        assert result.llm_output["token_usage"] == {key: each[0][key] + each[1][key] for key in each[0]}

    def test_says_what_was_pruned(self, llm: SpecKVLLM) -> None:
        (figures,) = [g[0].generation_info["speckv"] for g in llm.generate([PROMPT]).generations]
        assert 0 < figures["kv_bytes_kept"] < figures["kv_bytes_dense"]
        assert figures["lookahead_tokens"] == 4
        assert figures["draft_seconds"] > 0

    def test_counts_the_prompt_as_given_with_specpc(self, pair: ModelPair) -> None:
        specpc = SpecPCConfig(
            max_capacity_prompt=40, window_size=8, kernel_size=4, starting_layer_index=0, unit="token"
        )
        llm = SpecKVLLM(pair=pair, specpc=specpc, speckv=None, max_tokens=4)
        info = llm.generate([PROMPT]).generations[0][0].generation_info
        assert info["token_usage"]["prompt_tokens"] > 40 == info["speckv"]["target_prompt_tokens"]


class TestStop:
    @pytest.mark.parametrize("stop", ["lens up", "n", " up the mountain"])
    async def test_ends_before_a_string_over_token_borders(self, pair: ModelPair, stop: str) -> None:
        llm = SpecKVLLM(pair=pair, max_tokens=60)
        text = "it carried the lens up the mountain"
        with scripted(pair, text):
            told = await results(llm, stop=[stop])
            pieces = list(llm.stream(PROMPT, stop=[stop]))
        expected = text[: text.index(stop)]
        assert {result.generations[0][0].text for result in told.values()} == {expected}
        assert "".join(pieces) == expected
        assert {result.generations[0][0].generation_info["finish_reason"] for result in told.values()} == {"stop"}

    def test_is_a_setting_too(self, pair: ModelPair) -> None:
        with scripted(pair, "one, two, three"):
            assert SpecKVLLM(pair=pair, stop=", three").invoke(PROMPT) == "one, two"
            assert SpecKVLLM(pair=pair, stop=["two"]).invoke(PROMPT, stop=["ne"]) == "o"

    def test_stops_each_row_of_a_batch(self, pair: ModelPair) -> None:
        llm = SpecKVLLM(pair=pair, max_tokens=40)
        whole = llm.batch([PROMPT, "Hello"])
        stop = whole[0][5:8]
        assert llm.batch([PROMPT, "Hello"], stop=[stop]) == [text.partition(stop)[0] for text in whole]


class TestStreaming:
    async def test_tokens_reach_the_callbacks(self, llm: SpecKVLLM) -> None:
        watching, awatching = Watching(), Watching()
        with scripted(llm.pair, "it is a mule"):
            pieces = list(llm.stream(PROMPT, {"callbacks": [watching]}))
            apieces = [piece async for piece in llm.astream(PROMPT, {"callbacks": [awatching]})]
        assert len([piece for piece in pieces if piece]) > 1
        assert watching.tokens == [piece for piece in pieces if piece]
        assert "".join(awatching.tokens) == "".join(apieces) == "".join(pieces)

    async def test_setting_streams_where_the_caller_does_not(self, pair: ModelPair) -> None:
        llm, watching, awatching = SpecKVLLM(pair=pair, max_tokens=8, streaming=True), Watching(), Watching()
        text = llm.invoke(PROMPT, {"callbacks": [watching]})
        assert "".join(watching.tokens) == text
        assert await llm.ainvoke(PROMPT, {"callbacks": [awatching]}) == "".join(awatching.tokens) == text

    def test_an_answer_of_nothing_is_a_stream_too(self, pair: ModelPair) -> None:
        with scripted(pair, ""):
            assert "".join(SpecKVLLM(pair=pair).stream(PROMPT)) == ""

    def test_leaving_it_stops_the_generation(self, pair: ModelPair) -> None:
        with Steps(pair, 0.002) as steps:
            stream = SpecKVLLM(pair=pair, max_tokens=2000).stream(PROMPT)
            next(stream)
            at = steps.count
            stream.close()
            time.sleep(0.05)
            assert steps.count <= at + 2

    async def test_leaving_it_stops_the_generation_async(self, pair: ModelPair) -> None:
        with Steps(pair, 0.005) as steps:
            stream = SpecKVLLM(pair=pair, max_tokens=2000).astream(PROMPT)
            await anext(stream)
            at = steps.count
            await stream.aclose()
            await asyncio.sleep(0.1)
            assert steps.count <= at + 2

    async def test_cancelling_the_task_stops_the_generation(self, pair: ModelPair) -> None:
        with Steps(pair, 0.005) as steps:
            task = asyncio.create_task(SpecKVLLM(pair=pair, max_tokens=2000).ainvoke(PROMPT))
            while steps.count < 3:
                await asyncio.sleep(0.005)
            at = steps.count
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.1)
            assert steps.count <= at + 2

    async def test_the_event_loop_goes_on(self, pair: ModelPair) -> None:
        ticks, ended = 0, False

        async def tick() -> None:
            nonlocal ticks
            while not ended:
                await asyncio.sleep(0.005)
                ticks += 1

        with Steps(pair, 0.005):
            ticking = asyncio.create_task(tick())
            await SpecKVLLM(pair=pair, max_tokens=40).ainvoke(PROMPT)
            ended = True
            await ticking
        assert ticks > 10


class TestSettings:
    def test_none_are_needed(self) -> None:
        llm = SpecKVLLM()
        assert (llm.target, llm.draft, llm.is_loaded) == (DEFAULT_DRAFT, DEFAULT_DRAFT, False)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"max_tokens": 0},
            {"temperature": -1},
            {"top_p": 2},
            {"temperature": 0, "generation_kwargs": {"do_sample": True}},
            {"generation_kwargs": {"use_cache": False}},
            {"timeout": 0},
            {"stop": [""]},
            {"tempertaure": 1},
            {"speckv": {"kernel_size": 4}},
            {"speckv": {"capacity": 4}},
            {"pair": "tiny"},
            {"generation_kwargs": {"no_such_field": 1}},
            {"target_options": {"trust_remote_code": True}},
        ],
    )
    def test_wrong_ones_are_refused_at_once(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            SpecKVLLM(**wrong)

    def test_of_a_call_override_fields(self, llm: SpecKVLLM) -> None:
        assert len(llm.invoke(PROMPT, max_tokens=3)) == 3
        assert len(llm.bind(max_new_tokens=4).invoke(PROMPT)) == 4
        assert llm.invoke(PROMPT, repetition_penalty=5.0) != llm.invoke(PROMPT)
        whole = llm.generate([PROMPT], speckv=None).generations[0][0].generation_info["speckv"]
        assert whole["kv_bytes_kept"] == whole["kv_bytes_dense"] > 0
        assert llm.invoke(PROMPT, temperature=None) == llm.invoke(PROMPT)

    def test_unknown_ones_of_a_call_are_refused(self, llm: SpecKVLLM) -> None:
        with pytest.raises(ValidationError):
            llm.invoke(PROMPT, max_tokenz=3)

    def test_seed_makes_sampling_repeatable(self, pair: ModelPair) -> None:
        llm = SpecKVLLM(pair=pair, temperature=2.0, max_tokens=16)
        assert llm.invoke(PROMPT, seed=1) == llm.invoke(PROMPT, seed=1) != llm.invoke(PROMPT, seed=2)

    def test_top_k_samples(self, pair: ModelPair) -> None:
        llm = SpecKVLLM(pair=pair, top_k=20, max_tokens=16)
        assert llm.invoke(PROMPT, seed=1) != llm.invoke(PROMPT, seed=2)

    def test_a_prompt_may_be_read_in_chunks(self, llm: SpecKVLLM, pair: ModelPair, speckv: SpecKVConfig) -> None:
        chunked = SpecKVLLM(pair=pair, speckv=speckv, max_tokens=12, generation_kwargs={"prefill_chunk_size": 16})
        assert chunked.invoke(PROMPT) == llm.invoke(PROMPT)

    def test_configs_may_be_dicts(self) -> None:
        llm = SpecKVLLM(specpc={"max_capacity_prompt": 512}, speckv={"max_capacity_prompt": 256})
        assert llm.specpc == SpecPCConfig(max_capacity_prompt=512)
        assert llm.speckv == SpecKVConfig(max_capacity_prompt=256)
        assert SpecKVLLM(speckv={"preset": "paper"}).speckv == SpecKVConfig(preset="paper")

    def test_timeout_raises(self, pair: ModelPair) -> None:
        with Steps(pair, 0.02):
            llm = SpecKVLLM(pair=pair, max_tokens=500, timeout=0.1)
            with pytest.raises(TimeoutError, match=r"timeout=0\.1"):
                llm.invoke(PROMPT)
            with pytest.raises(TimeoutError):
                list(llm.stream(PROMPT))
        assert len(SpecKVLLM(pair=pair, max_tokens=3, timeout=60).invoke(PROMPT)) == 3

    async def test_timeout_raises_async(self, pair: ModelPair) -> None:
        with Steps(pair, 0.02):
            llm = SpecKVLLM(pair=pair, max_tokens=500, timeout=0.1)
            with pytest.raises(TimeoutError):
                await llm.ainvoke(PROMPT)
            with pytest.raises(TimeoutError):
                [_ async for _ in llm.astream(PROMPT)]

    def test_timeout_covers_the_wait_for_the_models(self, pair: ModelPair) -> None:
        with pair.lock.hold(), pytest.raises(TimeoutError):
            SpecKVLLM(pair=pair, timeout=0.1).invoke(PROMPT)

    async def test_a_full_gpu_is_tried_again(self, llm: SpecKVLLM, monkeypatch: pytest.MonkeyPatch) -> None:
        tries, original = itertools.count(), pipeline.answer_prompts

        def full_at_first(*args: Any, **kwargs: Any) -> Any:
            if next(tries) % 2 == 0:
                raise torch.OutOfMemoryError("full")
            return original(*args, **kwargs)

        expected = llm.invoke(PROMPT)
        monkeypatch.setattr(pipeline, "answer_prompts", full_at_first)
        assert llm.invoke(PROMPT, max_retries=1) == expected
        assert await llm.ainvoke(PROMPT, max_retries=1) == expected
        with pytest.raises(torch.OutOfMemoryError):
            llm.invoke(PROMPT, max_retries=0)


class TestErrors:
    def test_of_the_worker_reach_the_consumer(self, pair: ModelPair) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("broken layer")

        hook = pair.target.register_forward_pre_hook(broken)
        llm, watching = SpecKVLLM(pair=pair), Watching()
        try:
            with pytest.raises(RuntimeError, match="broken layer"):
                list(llm.stream(PROMPT, {"callbacks": [watching]}))
            with pytest.raises(RuntimeError, match="broken layer"):
                asyncio.run(llm.ainvoke(PROMPT))
        finally:
            hook.remove()
        assert watching.errors
        assert llm.invoke(PROMPT, max_tokens=3)

    def test_are_the_core_s(self, llm: SpecKVLLM) -> None:
        with pytest.raises(SpecRagError):
            llm.invoke("long " * 3000)
        with pytest.raises(ConfigError):
            list(llm.stream(PROMPT, num_beams=2))
        assert len(llm.invoke(PROMPT, num_beams=2)) > 0

    def test_missing_model_is_named(self) -> None:
        with pytest.raises(OSError, match="no-such-model"):
            SpecKVLLM(target="no-such-model").invoke(PROMPT)


class TestCache:
    CHANGES: ClassVar[dict[str, Any]] = {
        "draft": "other",
        "target": "other",
        "target_options": LoadOptions(revision="v2"),
        "draft_options": {"dtype": "bfloat16"},
        "specpc": SpecPCConfig(),
        "speckv": SpecKVConfig(max_capacity_prompt=77),
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 5,
        "repetition_penalty": 1.5,
        "seed": 3,
        "stop": ["x"],
        "timeout": 9.0,
        "max_retries": 1,
        "streaming": True,
        "generation_kwargs": {"num_beams": 2},
        "use_chat_template": False,
    }

    def test_every_setting_is_looked_at_here(self) -> None:
        assert set(self.CHANGES) == set(SpecKVLLM()._identifying_params) - {"model_name"}

    @pytest.mark.parametrize("name", CHANGES)
    def test_keys_differ_when_a_setting_differs(self, name: str) -> None:
        keys = Keys()
        for llm in (SpecKVLLM(cache=keys), SpecKVLLM(cache=keys, **{name: self.CHANGES[name]})):
            llm.generate([PROMPT])
        SpecKVLLM(cache=keys).generate([PROMPT], **{name: self.CHANGES[name]})
        assert keys.seen[0] != keys.seen[1] == keys.seen[2]

    def test_two_loaded_pairs_do_not_share_answers(self, llm: SpecKVLLM, speckv: SpecKVConfig) -> None:
        llm.cache = InMemoryCache()
        other = SpecKVLLM(pair=tiny_pair(), cache=llm.cache, speckv=speckv, max_tokens=12)
        llm.invoke(PROMPT)
        with scripted(other.pair, "not that one"):
            assert other.invoke(PROMPT) == "not that one"

    async def test_gives_the_answer_again_without_the_models(self, llm: SpecKVLLM, pair: ModelPair) -> None:
        llm.cache = InMemoryCache()
        text = llm.invoke(PROMPT)
        with Steps(pair) as steps:
            assert llm.invoke(PROMPT) == await llm.ainvoke(PROMPT) == text
        assert steps.count == 0


class Keys(InMemoryCache):
    """Notes the keys it is asked for and has an answer to each."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def lookup(self, prompt: str, llm_string: str) -> Any:
        self.seen.append(llm_string)
        return [Generation(text="cached")]


def test_tokens_are_counted_by_the_target_s_tokenizer(llm: SpecKVLLM) -> None:
    assert llm.get_num_tokens("Ünï") == len("Ünï".encode())


def test_traces_name_provider_model_and_settings(llm: SpecKVLLM) -> None:
    params = llm._get_ls_params(stop=["x"], temperature=0.7)
    assert params["ls_provider"] == "spec_rag"
    assert params["ls_model_name"] == "tiny-target"
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.7, 12, ["x"])


def test_models_of_one_name_are_loaded_once(in_models_folder: Any) -> None:
    first = SpecKVLLM(target="tiny-target", draft="tiny-draft").load()
    second = SpecKVLLM(target="tiny-target", draft="tiny-target").load()
    assert first.target is second.target is second.draft
    assert first.lock is second.lock


def test_no_thread_is_left_after_a_timeout(pair: ModelPair) -> None:
    SpecKVLLM(pair=pair, max_tokens=2, timeout=30).invoke(PROMPT)
    time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


class TestADraftOfAnotherFamily:
    @pytest.fixture
    def foreign(self, in_models_folder: Path, tmp_path: Path) -> str:
        """The draft's weights with another vocabulary."""
        shutil.copytree("tiny-draft", tmp_path / "foreign")
        tokenizer = byte_tokenizer(PLAIN_TEMPLATE)
        tokenizer.add_tokens(["mule"])
        tokenizer.save_pretrained(tmp_path / "foreign")
        return str(tmp_path / "foreign")

    @pytest.mark.parametrize("of", [SpecKVLLM, ChatSpecKV])
    def test_short_and_long_prompts_are_answered_alike(self, of: Any, foreign: str) -> None:
        model = of(target="tiny-target", draft=foreign, max_tokens=4)
        for prompt in (PROMPT, PROMPT * 40):
            assert getattr(model.invoke(prompt), "text", model.invoke(prompt)) != ""

    @pytest.mark.parametrize("of", [SpecKVLLM, ChatSpecKV])
    def test_what_cannot_work_is_refused_when_the_models_are_loaded(self, of: Any, foreign: str) -> None:
        with pytest.raises(IncompatibleModelsError, match="different tokenizers"):
            of(target="tiny-target", draft=foreign, specpc=SpecPCConfig()).load()
