"""Fixtures of the LlamaIndex adapters' tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import llama_index.core
import pytest
from integrations.llama_index.helpers import Observed, Steps, strict_tokenizer
from integrations.tiny_llamas import byte_tokenizer, tiny_llama
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.schema import NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from transformers import LlamaForCausalLM

from spec_rag.models.model_pair import ModelPair

# llama-index-core 0.13 ships these files and downloads them all the same
os.environ.setdefault("NLTK_DATA", str(Path(llama_index.core.__file__).parent / "_static" / "nltk_cache"))


@pytest.fixture(scope="session")
def pair() -> ModelPair:
    tokenizer = strict_tokenizer()
    return ModelPair(
        draft=tiny_llama(LlamaForCausalLM, 1, tokenizer),
        target=tiny_llama(LlamaForCausalLM, 2, tokenizer),
        tokenizer=tokenizer,
        draft_name="tiny-draft",
        target_name="tiny-target",
    )


@pytest.fixture(scope="session")
def plain_pair(pair: ModelPair) -> ModelPair:
    """The same models without a chat template."""
    return ModelPair(draft=pair.draft, target=pair.target, tokenizer=byte_tokenizer(None), target_name="tiny-plain")


@pytest.fixture
def nodes() -> list[NodeWithScore]:
    texts = [
        "The dome was opened in 1931. It is painted copper green. Visitors may not lean on the rail.",
        "The kitchen closes at nine. Soup is served on Mondays. The cook is called Ilse.",
        "The road is closed in March. Snow chains hang beside the gate. The mule was called Saffron.",
    ]
    return [
        NodeWithScore(
            node=TextNode(
                id_=f"node-{i}",
                text=text,
                metadata={"file_name": f"{i}.md"},
                start_char_idx=100 * i,
                end_char_idx=100 * i + len(text),
                relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"source-{i}")},
            ),
            score=0.9 - 0.1 * i,
        )
        for i, text in enumerate(texts)
    ]


@pytest.fixture
def observed() -> Iterator[Observed]:
    dispatcher, watching = get_dispatcher(), Observed()
    dispatcher.add_event_handler(watching.events)
    dispatcher.add_span_handler(watching.spans)
    yield watching
    dispatcher.event_handlers.remove(watching.events)
    dispatcher.span_handlers.remove(watching.spans)


@pytest.fixture
def steps(pair: ModelPair) -> Iterator[Steps]:
    counting = Steps()
    assert pair.target is not None
    hook = pair.target.register_forward_pre_hook(counting)
    yield counting
    hook.remove()
