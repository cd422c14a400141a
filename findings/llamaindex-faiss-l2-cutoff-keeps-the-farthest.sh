#!/usr/bin/env bash
# Library: llama-index-vector-stores-faiss 0.7.0, llama-index-core 0.14.25, FAISS 1.15.1
#
# Guess, written before the run: a retriever over FaissVectorStore returns similarities that fall with the
#   distance, so SimilarityPostprocessor(similarity_cutoff=0.5) drops what is far.
#
# Seen: with IndexFlatL2 the score is the squared distance as it is: the exact match has 0, the opposite vector 4,
#   and the cutoff keeps the two farthest nodes and drops the exact match. The order of the nodes is right. A node
#   without a score is dropped, too, even at cutoff 0.
#
# Why it matters: IndexFlatL2 is the index of FAISS' and LlamaIndex' first examples. A cutoff, a fusion by
#   relative score, or a report of scores then works the wrong way round.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check llama-index-core==0.14.25 llama-index-vector-stores-faiss==0.7.0 faiss-cpu==1.15.1
cat > "$work/check.py" <<'PY'
from importlib.metadata import version

import faiss
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.vector_stores.faiss import FaissVectorStore

VECTORS = {"same": [1.0, 0.0], "near": [0.8, 0.6], "orthogonal": [0.0, 1.0], "opposite": [-1.0, 0.0]}


class Table(BaseEmbedding):
    def _get_query_embedding(self, query):
        return [1.0, 0.0]

    def _get_text_embedding(self, text):
        return VECTORS[text]

    async def _aget_query_embedding(self, query):
        return [1.0, 0.0]


print(*(f"{name} {version(name)}" for name in ("llama-index-core", "llama-index-vector-stores-faiss", "faiss-cpu")))
cut = SimilarityPostprocessor(similarity_cutoff=0.5)
kept = {}
for index in (faiss.IndexFlatL2(2), faiss.IndexFlatIP(2)):
    context = StorageContext.from_defaults(vector_store=FaissVectorStore(faiss_index=index))
    nodes = [TextNode(text=name, id_=name, embedding=vector) for name, vector in VECTORS.items()]
    store = VectorStoreIndex(nodes, storage_context=context, embed_model=Table())
    found = store.as_retriever(similarity_top_k=4).retrieve("query")
    name = type(index).__name__
    kept[name] = [node.text for node in cut.postprocess_nodes(found)]
    print(name, [(node.text, round(node.score, 2)) for node in found], "kept:", kept[name])
assert kept == {"IndexFlatL2": ["orthogonal", "opposite"], "IndexFlatIP": ["same", "near"]}
unscored = [NodeWithScore(node=TextNode(text="x"), score=None)]
assert SimilarityPostprocessor(similarity_cutoff=0.0).postprocess_nodes(unscored) == []
PY
"$work/venv/bin/python" -I "$work/check.py"
