"""A workflow step that retrieves, compresses and answers without blocking the event loop."""

import asyncio
from pathlib import Path

from llama_index.core import Document, SimpleKeywordTableIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step
from llama_index.llms.spec_rag import SpecKVLLM
from llama_index.postprocessor.spec_rag import SpecPCCompressor

HANDBOOK = sorted((Path(__file__).parent / "handbook").glob("[0-9]*.md"))
LLM, COMPRESSOR = SpecKVLLM(max_tokens=48), SpecPCCompressor(ratio=0.25)


class Answering(Workflow):
    @step
    async def answer(self, event: StartEvent) -> StopEvent:
        found = await event.retriever.aretrieve(event.question)
        kept = await COMPRESSOR.apostprocess_nodes(found, query_str=event.question)
        prompt = "\n\n".join([*(node.text for node in kept), event.question])
        return StopEvent(result=await LLM.acomplete(prompt))


def main(question: str = "Who discovered the comet of 1937?") -> None:
    documents = [Document(text=p.read_text(), metadata={"file_name": p.name}) for p in HANDBOOK]
    splitter = SentenceSplitter(chunk_size=200, chunk_overlap=0)
    index = SimpleKeywordTableIndex.from_documents(
        documents, llm=LLM, transformations=[splitter], max_keywords_per_chunk=200
    )
    retriever = index.as_retriever(retriever_mode="simple", num_chunks_per_query=4)

    async def ask() -> None:
        print(await Answering(timeout=None).run(question=question, retriever=retriever))

    asyncio.run(ask())


if __name__ == "__main__":
    main()
