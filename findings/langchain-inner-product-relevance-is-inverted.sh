#!/usr/bin/env bash
# Library: langchain-core 1.8.3 with langchain-community 0.4.2 (FAISS 1.15.1) and langchain-qdrant 1.1.0
#   (qdrant-client 1.20.0)
#
# Guess, written before the run: with the inner product as distance, the better match has the higher relevance
#   score.
#
# Seen: a positive inner product p becomes the relevance 1 - p, a negative one -p. Over unit vectors the exact
#   match gets 0, the opposite vector 1, and a retriever with score_threshold=0.5 returns the opposite vector
#   alone. FAISS and Qdrant (Dot) alike; raw scores are right.
#
# Why it matters: inner product is the usual choice for normalised embeddings.
#   search_type='similarity_score_threshold' then returns the worst documents, without an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check langchain-core==1.8.3 langchain-community==0.4.2 faiss-cpu==1.15.1 langchain-qdrant==1.1.0 qdrant-client==1.20.0 numpy==2.4.6
cat > "$work/check.py" <<'PY'
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
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


print(*(f"{name} {version(name)}" for name in ("langchain-core", "langchain-community", "langchain-qdrant")))
stores = {
    "faiss": FAISS.from_texts(NAMES, Table(), distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT),
    "qdrant": QdrantVectorStore.from_texts(NAMES, Table(), location=":memory:", distance=Distance.DOT, collection_name="x"),
}
for name, store in stores.items():
    raw = {doc.page_content: round(float(score), 3) for doc, score in store.similarity_search_with_score("query", k=4)}
    relevance = {
        doc.page_content: round(float(score), 3) for doc, score in store.similarity_search_with_relevance_scores("query", k=4)
    }
    retriever = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.5, "k": 4})
    kept = [doc.page_content for doc in retriever.invoke("query")]
    print(f"{name}: raw {raw}, relevance {relevance}, kept at 0.5: {kept}")
    assert raw["same"] == 1 and relevance["same"] == 0 and relevance["opposite"] == 1 and kept == ["opposite"]
PY
"$work/venv/bin/python" -I "$work/check.py"
