"""An LCEL chain: retrieve, compress to a quarter, answer with a local model."""

import sys
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from langchain_spec_rag import ChatSpecKV, SpecPCCompressor

from spec_rag.answering.chunking import retrieve, split_chunks
from spec_rag.loaders.reading import read_file

HANDBOOK = sorted((Path(__file__).parent / "handbook").glob("[0-9]*.md"))
CHUNKS = [chunk for path in HANDBOOK for chunk in split_chunks(read_file(path))]
PROMPT = ChatPromptTemplate.from_template("{context}\n\nAnswer in one sentence: {question}")


def find(question: str) -> list[Document]:
    found = retrieve(question, CHUNKS, top_k=4)
    return [Document(p.text, metadata={"title": p.title, "relevance_score": p.score}) for p in found]


def joined(documents: list[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


def main(question: str = "Who discovered the comet of 1937?") -> None:
    compressor, chat = SpecPCCompressor(ratio=0.25), ChatSpecKV(max_tokens=48)
    found = RunnableParallel(context=find, question=RunnablePassthrough())
    chain = found.assign(context=compressor | joined) | PROMPT | chat | StrOutputParser()
    for piece in chain.stream(question):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
