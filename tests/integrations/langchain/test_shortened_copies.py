"""What a shortened Document must not keep, and questions in the forms in which LangChain has them."""

from __future__ import annotations

from typing import Any

import pytest
from integrations.langchain.helpers import documents
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_spec_rag import ChatSpecKV, SpecPCCompressor
from pydantic import Field

import spec_rag
from spec_rag.models.model_pair import ModelPair

QUERY = "What was the mule called?"
PARTS = [{"type": "text", "text": QUERY}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]


class WithState(Document):
    """As EmbeddingsFilter hands documents on."""

    state: dict[str, Any] = Field(default_factory=dict)
    vector: list[float] = Field(default_factory=list)


@pytest.fixture
def compressor(pair: ModelPair) -> SpecPCCompressor:
    return SpecPCCompressor(draft=pair, ratio=0.4, keep_empty=True)


def stateful() -> list[Document]:
    return [
        WithState(
            page_content=one.page_content,
            metadata={**one.metadata, "embedding": [0.5, 0.5], "embedding_model": "mini"},
            state={"embedded_doc": [1.0], "note": "own"},
            vector=[2.0],
        )
        for one in documents()
    ]


def test_a_shortened_copy_has_no_embedding_of_the_whole_text(pair: ModelPair) -> None:
    given = stateful()
    compressor = SpecPCCompressor(draft=pair, document_max_tokens=40, ratio=1.0, keep_empty=True)
    for before, after in zip(given, compressor.compress_documents(given, QUERY), strict=True):
        assert after.page_content != before.page_content
        assert isinstance(after, WithState)
        assert (after.state, after.vector) == ({"note": "own"}, [])
        assert "embedding" not in after.metadata
        assert after.metadata["embedding_model"] == "mini"
    assert given == stateful()


def test_a_whole_copy_keeps_its_embedding(pair: ModelPair) -> None:
    given = stateful()
    for before, after in zip(
        given, SpecPCCompressor(draft=pair, ratio=1.0).compress_documents(given, QUERY), strict=True
    ):
        assert (after.state, after.vector) == (before.state, before.vector)
        assert after.metadata["embedding"] == [0.5, 0.5]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that compressions were for."""
    questions: list[str] = []
    original = spec_rag.compress

    def noted(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        questions.append(found.query)
        return found

    monkeypatch.setattr(spec_rag, "compress", noted)
    return questions


@pytest.mark.parametrize(
    "query",
    [
        QUERY,
        PARTS,
        HumanMessage(PARTS),
        [HumanMessage(PARTS)],
        ChatPromptValue(messages=[HumanMessage(PARTS)]),
        [{"role": "user", "content": PARTS}],
        [("human", QUERY)],
    ],
)
async def test_a_query_of_content_parts_is_its_text(compressor: SpecPCCompressor, asked: list[str], query: Any) -> None:
    compressor.compress_documents(documents(), query)
    await compressor.acompress_documents(documents(), query)
    compressor.invoke({"context": documents(), "input": query})
    compressor.wrap(Fixed()).invoke(query)
    await compressor.wrap(Fixed()).ainvoke(query)
    assert set(asked) == {QUERY}
    assert len(asked) == 5


class Fixed(BaseRetriever):
    """Finds the same for every string."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        assert isinstance(query, str)
        return documents()


async def test_a_history_aware_retriever_can_be_wrapped(compressor: SpecPCCompressor, asked: list[str]) -> None:
    chains = pytest.importorskip("langchain_classic.chains.history_aware_retriever")
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("chat_history"), ("human", "{input}")])
    llm = RunnableLambda(lambda _: AIMessage("a standalone question"))
    chain = chains.create_history_aware_retriever(llm, Fixed(), prompt)
    wrapped = compressor.wrap(chain)
    assert wrapped.invoke({"input": QUERY})
    assert asked == [QUERY]
    history = [HumanMessage("Tell me of the mule."), AIMessage([{"type": "text", "text": "Which?"}])]
    assert await wrapped.ainvoke({"input": QUERY, "chat_history": history})
    assert asked[1] == f"Tell me of the mule.\nWhich?\n{QUERY}"


def test_an_input_without_a_question_is_refused(compressor: SpecPCCompressor) -> None:
    with pytest.raises(ValueError, match="'query', 'question', 'input'"):
        compressor.wrap(RunnableLambda(lambda _: documents())).invoke({"ask": QUERY})


def test_deep_nesting_is_refused(tool_pair: ModelPair) -> None:
    deep: Any = {"type": "string"}
    for _ in range(2000):
        deep = {"type": "object", "properties": {"a": deep}}
    chat = ChatSpecKV(pair=tool_pair, max_tokens=4)
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": deep}}
    called = AIMessage("", tool_calls=[{"name": "f", "args": {"a": deep}, "id": "1"}])
    for attempt in (
        lambda: chat.bind_tools([tool]),
        lambda: chat.with_structured_output({"title": "a", **deep}),
        lambda: chat.invoke([HumanMessage("a"), called, HumanMessage("b")]),
        lambda: chat.invoke("a", tools=[tool]),
        lambda: chat.invoke("a", response_format={"type": "json_schema", "json_schema": {"schema": deep}}),
    ):
        with pytest.raises(ValueError, match="nested more than 64"):
            attempt()
