"""A conversation over the handbook: each turn retrieves, compresses and streams its answer."""

from pathlib import Path

from llama_index.core import Document, SimpleKeywordTableIndex
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.node_parser import SentenceSplitter
from llama_index.llms.spec_rag import SpecKVLLM
from llama_index.postprocessor.spec_rag import SpecPCCompressor

HANDBOOK = sorted((Path(__file__).parent / "handbook").glob("[0-9]*.md"))
QUESTIONS = (
    "Who discovered the comet of 1937?",
    "What does the main mirror of the Ostrander reflector weigh?",
)


def main() -> None:
    llm = SpecKVLLM(max_tokens=48, system_prompt="Answer from the context in one sentence.")
    documents = [Document(text=p.read_text(), metadata={"file_name": p.name}) for p in HANDBOOK]
    splitter = SentenceSplitter(chunk_size=200, chunk_overlap=0)
    index = SimpleKeywordTableIndex.from_documents(
        documents, llm=llm, transformations=[splitter], max_keywords_per_chunk=200
    )
    engine = ContextChatEngine.from_defaults(
        retriever=index.as_retriever(retriever_mode="simple", num_chunks_per_query=4),
        node_postprocessors=[SpecPCCompressor(max_tokens=300, metadata_mode="llm")],
        llm=llm,
    )
    for question in QUESTIONS:
        print(f"> {question}")
        answer = engine.stream_chat(question)
        for piece in answer.response_gen:
            print(piece, end="", flush=True)
        print(f"\n  from {', '.join(sorted({node.metadata['file_name'] for node in answer.source_nodes}))}")


if __name__ == "__main__":
    main()
