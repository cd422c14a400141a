"""Reranks with Cohere's and LiteLLM's clients; run by an interpreter that has cohere and litellm.

It prints one JSON object: the index and the relevance of each result, by client.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(url: str, ask: dict[str, Any]) -> dict[str, Any]:
    import cohere
    import litellm

    found: dict[str, Any] = {}
    second = cohere.ClientV2(api_key="k", base_url=url).rerank(**ask, max_tokens_per_doc=4096)
    found["cohere v2"] = [(one.index, one.relevance_score) for one in second.results]
    first = cohere.Client(api_key="k", base_url=url)
    if hasattr(first, "rerank"):  # removed from later versions
        texts = [{"text": text} for text in ask["documents"]]
        answer = first.rerank(**{**ask, "documents": texts}, return_documents=True, rank_fields=["text"])
        found["cohere v1"] = [(one.index, one.relevance_score) for one in answer.results]
        found["cohere v1 texts"] = [one.document.text for one in answer.results]
    for provider in ("cohere", "jina_ai", "hosted_vllm"):
        asked = {**ask, "model": f"{provider}/{ask['model']}"}
        reply = litellm.rerank(**asked, api_base=url, api_key="k", return_documents=True)
        found[f"litellm {provider}"] = [(one["index"], one["relevance_score"]) for one in reply.results]
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.stdin.read()))))
