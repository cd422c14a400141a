"""A conversation over the handbook: each turn retrieves and compresses, streams its answer, and names its sources."""

from pathlib import Path

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_spec_rag import ChatSpecKV, SpecPCCompressor

from spec_rag.answering.chunking import retrieve, split_chunks
from spec_rag.loaders.reading import read_file

HANDBOOK = sorted((Path(__file__).parent / "handbook").glob("[0-9]*.md"))
CHUNKS = [chunk for path in HANDBOOK for chunk in split_chunks(read_file(path))]
QUESTIONS = ("Who discovered the comet of 1937?", "What does the main mirror of the Ostrander reflector weigh?")


def find(question: str) -> list[Document]:
    found = retrieve(question, CHUNKS, top_k=4)
    return [Document(p.text, metadata={**p.metadata, "title": p.title, "relevance_score": p.score}) for p in found]


def main() -> None:
    compressor, chat = SpecPCCompressor(max_tokens=200), ChatSpecKV(max_tokens=48)
    history: list[BaseMessage] = []
    for question in QUESTIONS:
        print(f"> {question}")
        kept = compressor.invoke({"documents": find(question), "query": question})
        context = SystemMessage("Answer in one sentence from:\n\n" + "\n\n".join(d.page_content for d in kept))
        whole = AIMessageChunk("")
        for chunk in chat.stream([context, *history, HumanMessage(question)]):
            print(chunk.text, end="", flush=True)
            whole += chunk
        history += [HumanMessage(question), AIMessage(whole.text)]
        sources = {f"{Path(d.metadata['source']).name}:{d.metadata['start']}-{d.metadata['end']}" for d in kept}
        print(f"\n  from {', '.join(sorted(sources))}; {whole.usage_metadata['input_tokens']} prompt tokens")


if __name__ == "__main__":
    main()
