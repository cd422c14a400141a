"""The compressor in LangChain's ContextualCompressionRetriever, and `wrap`, which needs langchain-core only."""

import sys
from pathlib import Path

from langchain_classic.retrievers.contextual_compression import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_spec_rag import SpecPCCompressor

from spec_rag.answering.chunking import retrieve, split_chunks
from spec_rag.loaders.reading import read_file

HANDBOOK = sorted((Path(__file__).parent / "handbook").glob("[0-9]*.md"))
CHUNKS = [chunk for path in HANDBOOK for chunk in split_chunks(read_file(path))]


def find(question: str) -> list[Document]:
    found = retrieve(question, CHUNKS, top_k=4)
    return [Document(p.text, metadata={**p.metadata, "title": p.title, "relevance_score": p.score}) for p in found]


def main(question: str = "What colour is the outside of the Kestrel dome?") -> None:
    retriever, compressor = RunnableLambda(find), SpecPCCompressor(ratio=0.25)
    compressing = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
    documents = compressing.invoke(question)
    for document in documents:
        tokens = "{original_tokens} -> {compressed_tokens} tokens".format(**document.metadata["spec_pc"])
        print(f"{Path(document.metadata['source']).name}  {tokens}\n  {document.page_content!r}")
    assert compressor.wrap(retriever).invoke(question) == documents


if __name__ == "__main__":
    main(*sys.argv[1:])
