"""Many questions over a folder: with an index, the draft encodes each passage once for all questions."""

import sys
from pathlib import Path

from llama_index.core import Document, SimpleKeywordTableIndex
from llama_index.core.async_utils import asyncio_run, run_jobs
from llama_index.core.node_parser import SentenceSplitter
from llama_index.llms.spec_rag import SpecKVLLM
from llama_index.postprocessor.spec_rag import SpecPCCompressor

from spec_rag import DocumentIndex

HANDBOOK = Path(__file__).parent / "handbook"
QUESTIONS = ("Who discovered the comet of 1937?", "What colour is the outside of the Kestrel dome?")


def main(folder: str | Path = HANDBOOK, *questions: str) -> None:
    llm = SpecKVLLM(max_tokens=48)
    documents = [
        Document(text=p.read_text(), metadata={"file_name": p.name}) for p in sorted(Path(folder).glob("*.md"))
    ]
    splitter = SentenceSplitter(chunk_size=200, chunk_overlap=0)
    index = SimpleKeywordTableIndex.from_documents(
        documents, llm=llm, transformations=[splitter], max_keywords_per_chunk=200
    )
    compressor = SpecPCCompressor(ratio=0.25, index=DocumentIndex())
    retriever = {"retriever_mode": "simple", "num_chunks_per_query": 4}
    engine = index.as_query_engine(llm=llm, node_postprocessors=[compressor], **retriever)

    async def ask(question: str) -> None:
        response = await engine.aquery(question)
        print(f"{question}\n  {response}\n  from {sorted({n.metadata['file_name'] for n in response.source_nodes})}")

    asyncio_run(run_jobs([ask(question) for question in questions or QUESTIONS], workers=4))


if __name__ == "__main__":
    main(*sys.argv[1:])
