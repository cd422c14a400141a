"""An answer with its sources: file and character range of the kept sentences that share most words with it."""

import re
import sys
from pathlib import Path

from langchain_core.documents import Document
from langchain_spec_rag import ChatSpecKV, SpecPCCompressor

from spec_rag.answering.chunking import retrieve, split_chunks
from spec_rag.loaders.reading import read_file
from spec_rag.text.units import sentence_spans

HANDBOOK = sorted((Path(__file__).parent / "handbook").glob("[0-9]*.md"))
CHUNKS = [chunk for path in HANDBOOK for chunk in split_chunks(read_file(path))]


def words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3 or word.isdigit()}


def main(question: str = "What does the main mirror of the Ostrander reflector weigh?") -> None:
    found = [Document(p.text, metadata={**p.metadata, "title": p.title}) for p in retrieve(question, CHUNKS, top_k=4)]
    kept = SpecPCCompressor(ratio=0.25).compress_documents(found, question)
    context = "\n\n".join(document.page_content for document in kept)
    answer = ChatSpecKV(max_tokens=48).invoke(f"{context}\n\nAnswer in one sentence: {question}").text
    cited = []
    for document in kept:
        path, start = Path(document.metadata["source"]), document.metadata["start"]
        for a, b in document.metadata["spec_pc"]["kept_spans"]:
            text = path.read_text()[start + a : start + b]
            for x, y in sentence_spans(text):
                shared = len(words(text[x:y]) & words(answer + question))
                cited.append((shared, f"[{path.name}:{start + a + x}-{start + a + y}] {text[x:y]}"))
    print(answer, *(place for _, place in sorted(cited, reverse=True)[:3]), sep="\n  ")


if __name__ == "__main__":
    main(*sys.argv[1:])
