"""What users of the peers complain about, one test each: every one of them fails on the peer that it names."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
import torch
from integrations.langchain.helpers import PLAIN_TEMPLATE, Steps, scripted, tiny_pair
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_spec_rag import ChatSpecKV, SpecKVLLM, SpecPCCompressor

from spec_rag.models.model_pair import ModelPair

PROMPT = "Who carried the lens?"


class TestLLMLinguaCompressor:
    def test_text_that_looks_like_a_reference_tag_stays_and_so_do_the_sources(self, pair: ModelPair) -> None:
        """LLMLingua's adapter cuts out "#ref1#" by a regex that eats figures and mixes up documents."""
        texts = [
            f"2023 revenue rose to 14. Costs fell to {i}. <#ref{i}#> is text. The weather was fine." for i in range(3)
        ]
        docs = [Document(text, id=str(i), metadata={"source": i}) for i, text in enumerate(texts)]
        kept = SpecPCCompressor(draft=pair, ratio=0.6).compress_documents(docs, "How much was the revenue?")
        assert kept
        for document in kept:
            text, spans = texts[document.metadata["source"]], document.metadata["spec_pc"]["kept_spans"]
            assert document.id == str(document.metadata["source"])
            assert "".join(text[a:b] for a, b in spans).replace(" ", "") == document.page_content.replace(" ", "")

    def test_every_document_keeps_its_metadata(self, pair: ModelPair) -> None:
        """LLMLingua#80: documents that the tags cannot be matched to lose theirs."""
        docs = [Document(f"Sentence {i} is here. It is about {i}.", metadata={"page": i}) for i in range(6)]
        kept = SpecPCCompressor(draft=pair, ratio=0.3, keep_empty=True).compress_documents(docs, "Which?")
        assert [document.metadata["page"] for document in kept] == list(range(6))

    def test_works_without_arguments(self) -> None:
        """Its no-argument constructor passes model_name={}."""
        assert SpecPCCompressor().draft == SpecPCCompressor.model_fields["draft"].default

    def test_works_on_the_installed_transformers(self, pair: ModelPair) -> None:
        """LLMLingua#210: its own handling of past_key_values fails on today's cache classes."""
        docs = [Document("One is here. Two is there. Three is nowhere.")]
        assert SpecPCCompressor(draft=pair, ratio=0.5).compress_documents(docs, "Where is two?")

    def test_needs_langchain_core_alone(self) -> None:
        """LLMLinguaCompressor lives in langchain-community, which is sunset."""
        code = (
            "import sys\n"
            "for name in ('langchain', 'langchain_community', 'langchain_classic'): sys.modules[name] = None\n"
            "from langchain_spec_rag import ChatSpecKV, SpecKVLLM, SpecPCCompressor, SpecPCRetriever\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


class TestHuggingFacePipeline:
    def test_invoke_heeds_stop(self, pair: ModelPair) -> None:
        """Its _generate ignores stop."""
        with scripted(pair, "Saffron. And the dog."):
            assert SpecKVLLM(pair=pair).invoke(PROMPT, stop=["And"]) == "Saffron. "

    def test_stream_heeds_stops_of_several_tokens(self, pair: ModelPair) -> None:
        """PR#22601: its _stream knows stops of one token."""
        with scripted(pair, "Saffron. And the dog."):
            assert "".join(SpecKVLLM(pair=pair).stream(PROMPT, stop=["And the"])) == "Saffron. "

    def test_applies_the_chat_template(self, pair: ModelPair) -> None:
        """#19933: an instruction-tuned model is given bare text."""
        with scripted(pair, lambda prompt: prompt):
            assert "user" in SpecKVLLM(pair=pair).invoke(PROMPT)

    def test_does_not_echo_the_prompt(self, pair: ModelPair) -> None:
        """#25916."""
        assert PROMPT not in SpecKVLLM(pair=pair, max_tokens=20).invoke(PROMPT)
        assert PROMPT not in ChatSpecKV(pair=pair, max_tokens=20).invoke(PROMPT).text

    def test_prompts_of_a_batch_run_together_and_keep_their_generation_info(self, pair: ModelPair) -> None:
        """LLM's _generate loops over the prompts and drops generation info."""
        llm = SpecKVLLM(pair=pair, max_tokens=10)
        with Steps(pair) as steps:
            result = llm.generate([PROMPT, PROMPT + " And when?"])
        assert steps.count <= 11
        assert all(generation[0].generation_info["finish_reason"] for generation in result.generations)


class TestChatHuggingFace:
    async def test_agenerate_and_astream_work(self, pair: ModelPair) -> None:
        """#34134: _agenerate is not implemented for a local model, and _astream needs a client that is not there."""
        chat = ChatSpecKV(pair=pair, max_tokens=8)
        text = (await chat.ainvoke(PROMPT)).text
        assert text == "".join([chunk.text async for chunk in chat.astream(PROMPT)]) != ""

    def test_counts_tokens(self, pair: ModelPair) -> None:
        """No usage on a local model."""
        chat = ChatSpecKV(pair=pair, max_tokens=8)
        assert chat.invoke(PROMPT).usage_metadata["output_tokens"] == 8
        assert list(chat.stream(PROMPT))[-1].usage_metadata["output_tokens"] == 8

    @pytest.mark.parametrize("last", [AIMessage("It was"), SystemMessage("Be brief.")])
    def test_last_message_may_be_any(self, pair: ModelPair, last: Any) -> None:
        """#15232: the last message must be Human."""
        assert ChatSpecKV(pair=pair, max_tokens=4).invoke([HumanMessage(PROMPT), last]).text

    def test_one_opening_token(self) -> None:
        """It templates to a string and tokenizes that again: two opening tokens on tokenizers that add one."""
        pair = tiny_pair(PLAIN_TEMPLATE)
        seen: list[torch.Tensor] = []
        hook = pair.target.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
        )
        ChatSpecKV(pair=pair, max_tokens=1).invoke(PROMPT)
        SpecKVLLM(pair=pair, max_tokens=1).invoke(PROMPT)
        hook.remove()
        assert [int((ids == pair.tokenizer.bos_token_id).sum()) for ids in seen] == [1, 1]


class TestCacheKeys:
    @pytest.mark.parametrize("of", [SpecKVLLM, ChatSpecKV])
    def test_two_settings_do_not_share_an_answer(self, of: Any, pair: ModelPair) -> None:
        """With the default, empty _identifying_params two differently set instances share one answer."""
        cache = InMemoryCache()
        short, long = (of(pair=pair, cache=cache, max_tokens=n) for n in (3, 9))
        assert len(str(getattr(short.invoke(PROMPT), "text", short.invoke(PROMPT)))) == 3
        assert len(str(getattr(long.invoke(PROMPT), "text", long.invoke(PROMPT)))) == 9

    def test_one_call_s_settings_are_in_the_key(self, pair: ModelPair) -> None:
        """langchain#40403: BaseLLM leaves them out."""
        llm = SpecKVLLM(pair=pair, cache=InMemoryCache())
        assert len(llm.invoke(PROMPT, max_tokens=3)) == 3
        assert len(llm.invoke(PROMPT, max_tokens=9)) == 9
        assert len(asyncio.run(llm.ainvoke(PROMPT, max_tokens=5))) == 5


class TestStreams:
    def test_a_stream_may_be_read_from_several_threads(self, pair: ModelPair) -> None:
        """The default _astream calls next() from different threads, which a lock or inference mode does not survive."""
        from concurrent.futures import ThreadPoolExecutor

        stream = iter(SpecKVLLM(pair=pair, max_tokens=12).stream(PROMPT))
        pieces: list[str] = []
        while True:
            with ThreadPoolExecutor(1) as pool:
                piece = pool.submit(next, stream, None).result(20)
            if piece is None:
                break
            pieces.append(piece)
        assert "".join(pieces) == SpecKVLLM(pair=pair, max_tokens=12).invoke(PROMPT)
        assert not torch.is_inference_mode_enabled()

    def test_an_error_of_the_worker_does_not_hang(self, pair: ModelPair) -> None:
        """transformers#22576: a streamer whose generation died waits for ever."""

        def broken(*_: Any) -> None:
            raise RuntimeError("broken layer")

        hook = pair.target.register_forward_pre_hook(broken)
        try:
            with pytest.raises(RuntimeError, match="broken layer"):
                list(SpecKVLLM(pair=pair).stream(PROMPT))
        finally:
            hook.remove()


def test_importing_without_langchain_core_gives_the_pip_hint() -> None:
    code = (
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'langchain_core' else find(name, *a)\n"
        "import langchain_spec_rag\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert 'pip install "spec-rag[langchain]"' in run.stderr


def test_the_middleware_without_langchain_gives_the_pip_hint() -> None:
    code = "import sys; sys.modules['langchain.agents.middleware'] = None; import langchain_spec_rag.middleware"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pip install" in run.stderr.splitlines()[-1]
    assert "MissingDependencyError" in run.stderr.splitlines()[-1]


def test_importing_loads_no_adapter() -> None:
    code = "import sys, langchain_spec_rag\nassert 'torch' not in sys.modules and 'langchain_core' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
