"""A query engine that compresses retrieved passages, answers with a local model, and prints the kept spans."""

import sys
from pathlib import Path

from llama_index.core import Document, SimpleKeywordTableIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.llms.spec_rag import SpecKVLLM
from llama_index.postprocessor.spec_rag import SpecPCCompressor

HANDBOOK = sorted((Path(__file__).parent / "handbook").glob("[0-9]*.md"))


def main(question: str = "Who discovered the comet of 1937?") -> None:
    llm = SpecKVLLM(max_tokens=48)
    documents = [Document(text=p.read_text(), metadata={"file_name": p.name}) for p in HANDBOOK]
    splitter = SentenceSplitter(chunk_size=200, chunk_overlap=0)
    index = SimpleKeywordTableIndex.from_documents(
        documents, llm=llm, transformations=[splitter], max_keywords_per_chunk=200
    )
    engine = index.as_query_engine(
        llm=llm,
        retriever_mode="simple",
        num_chunks_per_query=4,
        node_postprocessors=[SpecPCCompressor(ratio=0.25)],
        streaming=True,
    )
    response = engine.query(question)
    response.print_response_stream()
    print()
    for source in response.source_nodes:
        kept = source.metadata["spec_pc"]
        place = f"{source.metadata['file_name']}:{source.node.start_char_idx}-{source.node.end_char_idx}"
        print(f"{place}  {kept['original_tokens']} -> {kept['compressed_tokens']} tokens  {source.text!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
