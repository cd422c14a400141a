#!/usr/bin/env bash
# Library: langchain-core 1.8.3 with FAISS (langchain-community 0.4.2), Chroma (langchain-chroma 1.1.0, chromadb
#   1.5.9) and Qdrant (langchain-qdrant 1.1.0)
#
# Guess, written before the run: relevance scores are between 0 and 1, and a vector orthogonal to the query has
#   about 0 in each store.
#
# Seen: FAISS and Chroma with the L2 distance give -0.41 (the formula expects the distance, both stores return its
#   square), FAISS with COSINE gives -1.0 (1 less the squared L2 distance), Qdrant with COSINE gives 0.5 ((1 +
#   cosine) / 2) and passes a threshold of 0.5, though the same threshold on similarity_search_with_score drops
#   it.
#
# Why it matters: a score_threshold tuned on one store keeps everything, or nothing, on another; in Qdrant it also
#   depends on which of two methods takes it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check langchain-core==1.8.3 langchain-community==0.4.2 faiss-cpu==1.15.1 langchain-chroma==1.1.0 chromadb==1.5.9 langchain-qdrant==1.1.0 qdrant-client==1.20.0 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
from langchain_chroma import Chroma
from langchain_community.vectorstores import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore
from qdrant_client.models import Distance


VECTORS = {"query": [1, 0], "same": [1, 0], "near": [0.8, 0.6], "orthogonal": [0, 1], "opposite": [-1, 0], "dummy_text": [1, 0]}
NAMES = ["same", "near", "orthogonal", "opposite"]


class Table(Embeddings):
    """Unit vectors from a table."""

    def embed_documents(self, texts):
        return [VECTORS[text] for text in texts]

    def embed_query(self, text):
        return VECTORS[text]


print(*(f"{name} {version(name)}" for name in ("langchain-core", "langchain-community", "langchain-chroma", "langchain-qdrant")))
qdrant = QdrantVectorStore.from_texts(NAMES, Table(), location=":memory:", distance=Distance.COSINE, collection_name="x")
stores = {
    "FAISS L2": (FAISS.from_texts(NAMES, Table()), -0.414),
    "Chroma L2": (Chroma.from_texts(NAMES, Table()), -0.414),
    "FAISS COSINE": (FAISS.from_texts(NAMES, Table(), distance_strategy=DistanceStrategy.COSINE), -1.0),
    "Qdrant COSINE": (qdrant, 0.5),
}
for name, (store, expected) in stores.items():
    relevance = {
        doc.page_content: round(float(score), 3) for doc, score in store.similarity_search_with_relevance_scores("query", k=4)
    }
    print(f"{name:14}", relevance)
    assert relevance["same"] == 1 and relevance["orthogonal"] == expected
retriever = qdrant.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.5, "k": 4})
by_relevance = [doc.page_content for doc in retriever.invoke("query")]
by_score = [doc.page_content for doc, _ in qdrant.similarity_search_with_score("query", k=4, score_threshold=0.5)]
print("Qdrant, threshold 0.5 as a retriever:", by_relevance, "and as a search:", by_score)
assert by_relevance == ["same", "near", "orthogonal"] and by_score == ["same", "near"]
PY
"$work/venv/bin/python" -I "$work/check.py"
