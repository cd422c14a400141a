#!/usr/bin/env bash
# Library: langchain-classic 1.0.8 EnsembleRetriever; langchain-community 0.4.2 EmbeddingsRedundantFilter
#
# Guess, written before the run: (1) EnsembleRetriever keeps two documents of equal text and different source; (2)
#   where neighbours in a chain A~B~C are similar, EmbeddingsRedundantFilter drops B and keeps A, which the
#   retriever ranked first.
#
# Seen: (1) documents are identified by their text alone: the second source is lost, and the first gets the votes
#   of both; (2) pairs are taken from the most similar one, whose second member is dropped, so which document
#   stays depends on the last digits of the similarities. In a chain of four with equal steps the first-ranked one
#   was dropped.
#
# Why it matters: a fee that is the same in the 2023 and the 2024 list keeps one source, so the citation may be
#   the outdated one; a redundancy filter after a reranker can remove the best hit.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check langchain-classic==1.0.8 langchain-community==0.4.2 langchain-core==1.8.3 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import math
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
from langchain_classic.retrievers import EnsembleRetriever
from langchain_community.document_transformers import EmbeddingsRedundantFilter
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever

print(*(f"{name} {version(name)}" for name in ("langchain-core", "langchain-classic", "langchain-community")))


class Fixed(BaseRetriever):
    found: list

    def _get_relevant_documents(self, query, *, run_manager=None):
        return list(self.found)


class Angle(Embeddings):
    """The text is an angle in degrees."""

    def embed_documents(self, texts):
        return [[math.cos(math.radians(float(text))), math.sin(math.radians(float(text)))] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


fee = lambda year: Document(page_content="Fee: 5 euros", metadata={"source": year})
other = Document(page_content="Dogs wait outside", metadata={"source": "rules"})
fused = EnsembleRetriever(retrievers=[Fixed(found=[fee("2023"), other]), Fixed(found=[other, fee("2024")])]).invoke("fee")
sources = [doc.metadata["source"] for doc in fused]
print("fused sources:", sources)

ranked = ["30", "45", "15", "0"]
documents = [Document(page_content=angle) for angle in ranked]
kept = EmbeddingsRedundantFilter(embeddings=Angle(), similarity_threshold=0.95).transform_documents(documents)
angles = [doc.page_content for doc in kept]
print("ranked:", ranked, "kept:", angles)
assert sorted(sources) == ["2023", "rules"]
assert "30" not in angles and len(angles) == 2
PY
"$work/venv/bin/python" -I "$work/check.py"
