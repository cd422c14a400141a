"""Every documented name and kind of value of the adapters' settings, for mypy; run by test_typed_names."""

from __future__ import annotations

from pathlib import Path

from langchain_spec_rag import ChatSpecKV, SpecKVLLM, SpecPCCompressor
from llama_index.llms.spec_rag import SpecKVLLM as LlamaIndexLLM
from llama_index.postprocessor.spec_rag import SpecPCCompressor as LlamaIndexCompressor

ChatSpecKV(model="a", max_new_tokens=3, stop="a", specpc={"window_size": 3}, target_options={"device": "cpu"})
ChatSpecKV(model_name="a", draft=Path("a"), stop=["a"], speckv=None)
ChatSpecKV(target=Path("a"), draft=None)
SpecKVLLM(model="a", max_new_tokens=3, stop="a", speckv={"window_size": 3})
LlamaIndexLLM(model="a", max_new_tokens=3, stop="a", speckv={"window_size": 3})
LlamaIndexLLM(model_name="a", draft=Path("a"), stop=["a"])
SpecPCCompressor(embeddings=1, draft=Path("a"), keep="numbers", index="a", draft_options={"device": "cpu"})
SpecPCCompressor(embed_model=1, index=Path("a"), preset="paper", keep=("dates",))
LlamaIndexCompressor(embeddings=1, draft=Path("a"), keep="numbers", index="a", draft_options={"device": "cpu"})
LlamaIndexCompressor(embed_model=1, draft_options=None, metadata_mode="llm", index=Path("a"))
