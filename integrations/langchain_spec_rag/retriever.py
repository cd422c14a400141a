"""SpecPCRetriever: a retriever whose documents have been through SpecPCCompressor. It needs langchain-core alone."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from langchain_spec_rag.compressor import SpecPCCompressor


class SpecPCRetriever(BaseRetriever):
    """Retrieves with one retriever and compresses what it finds for the query. Made by `SpecPCCompressor.wrap`.

    Args:
        retriever: any Runnable from a query to Documents. What `invoke` is given besides the query goes to it.
        compressor: what compresses.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    retriever: Any
    compressor: SpecPCCompressor

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """As far as the retriever inside is."""
        return True

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        found = self.retriever.invoke(query, {"callbacks": run_manager.get_child("retrieve")}, **kwargs)
        return self.compressor.compress_documents(found, query, callbacks=run_manager.get_child("compress"))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        found = await self.retriever.ainvoke(query, {"callbacks": run_manager.get_child("retrieve")}, **kwargs)
        return await self.compressor.acompress_documents(found, query, callbacks=run_manager.get_child("compress"))
