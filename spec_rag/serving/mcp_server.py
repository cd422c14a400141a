"""Tools for agents over the Model Context Protocol: compress texts, search files and compress, expand what was kept.

Only files inside the folders that the server was started with are read; links that lead out of them are not followed.
Every kept passage has a handle, which returns its surroundings as long as the server runs and remembers the text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

import spec_rag
from spec_rag.answering.chunks import DEFAULT_TOP_K, Chunk, retrieve, split_chunks
from spec_rag.cancellation import in_thread
from spec_rag.compression.expand import MAX_CHARS, Originals
from spec_rag.config import CompressionConfig
from spec_rag.errors import SpecRagError
from spec_rag.loaders.reading import KINDS, read_files
from spec_rag.report import Compression
from spec_rag.serving.engine import Engine, LocalEngine
from spec_rag.serving.settings import ServerSettings
from spec_rag.text.documents import Document
from spec_rag.text.units import cut_at_words

DEFAULT_TOKENS = 600
AROUND = 5


class Passage(BaseModel):
    """A kept passage: its handle, and the characters of its source that it is."""

    handle: str
    source: str
    start: int
    end: int
    text: str


class Found(BaseModel):
    """What was kept, and what was left out."""

    passages: list[Passage]
    tokens_before: int
    tokens_after: int
    skipped: list[str] = []


class Expanded(BaseModel):
    """A passage with what stands around it."""

    source: str
    start: int
    end: int
    text: str
    is_whole: bool = Field(description="Whether this is the whole source.")


class Given(BaseModel):
    """A text to be compressed."""

    text: str
    title: str | None = None


class Tools:
    """What the tools do, without the protocol.

    Args:
        engine: what reads; None loads the draft of the settings when it is first needed.
        settings: which draft.
        folders: the folders that may be read; a folder may itself be a link.
    """

    def __init__(self, settings: ServerSettings, folders: Sequence[Path], engine: Engine | None = None) -> None:
        self._settings = settings
        self._folders = [folder.resolve() for folder in folders]
        self._engine = engine
        self._loading = asyncio.Lock()
        self._originals = Originals()

    async def compress(self, texts: list[Given], query: str, max_tokens: int = DEFAULT_TOKENS) -> Found:
        """Keep of some texts what bears on a question: use it before reading long tool results.

        Args:
            texts: the texts, with titles if they have any.
            query: the question.
            max_tokens: keep at most so many tokens of all of them.
        """
        documents = [Document(one.text, one.title, f"text {i + 1}") for i, one in enumerate(texts)]
        return self._found(await self._compressed(documents, query, max_tokens), {}, [])

    async def search_and_compress(
        self, query: str, paths: list[str] | None = None, max_tokens: int = DEFAULT_TOKENS, top_k: int = DEFAULT_TOP_K
    ) -> Found:
        """Find in files what bears on a question, and keep the sentences that matter.

        Args:
            query: the question.
            paths: files or folders, relative to the server's folders; nothing given searches all of them.
            max_tokens: keep at most so many tokens.
            top_k: look at so many chunks of about 900 characters.
        """
        skipped: list[str] = []
        if not self._folders:
            raise ToolError("The server was started without a folder: spec-rag mcp FOLDER")

        def found() -> tuple[list[Chunk], dict[str, str]]:
            wanted = paths or self._folders
            documents = read_files(wanted, within=self._folders, skipped=lambda error: skipped.append(str(error)))
            chunks = [chunk for one in documents for chunk in split_chunks(one)]
            return retrieve(query, chunks, top_k), {str(one.id): one.text for one in documents}

        try:
            chunks, files = await in_thread(lambda cancelled: found())
        except (SpecRagError, OSError) as error:
            raise ToolError(str(error)) from error
        return self._found(await self._compressed(chunks, query, max_tokens), files, skipped)

    async def expand(
        self, handle: str, context_before: int | None = AROUND, context_after: int | None = AROUND
    ) -> Expanded:
        """What stands around a passage that was kept.

        Args:
            handle: of the passage, copied exactly.
            context_before: so many sentences before it.
            context_after: so many sentences after it; null for both gives the whole source.
        """
        try:
            found = self._originals.expand(handle, context_before, context_after)
        except SpecRagError as error:
            raise ToolError(str(error)) from error
        (whole,) = found.spans
        start, end = cut_at_words(found.original_text, whole, MAX_CHARS)[0]
        text = found.original_text[start:end]
        return Expanded(
            source=found.title or "",
            start=start,
            end=end,
            text=text,
            is_whole=text.strip() == found.original_text.strip(),
        )

    async def _compressed(self, documents: Sequence[Document], query: str, max_tokens: int) -> Compression:
        try:
            config = CompressionConfig(max_tokens=max_tokens)
            return await (await self._loaded()).compress(documents, query, config)
        except SpecRagError as error:
            raise ToolError(str(error)) from error

    async def _loaded(self) -> Engine:
        async with self._loading:
            if self._engine is None:
                self._engine = await in_thread(lambda cancelled: LocalEngine.load(self._settings, answers=False))
            return self._engine

    def _found(self, compression: Compression, files: Mapping[str, str], skipped: list[str]) -> Found:
        passages = []
        for left in compression.documents:
            offset = left.source.start if isinstance(left.source, Chunk) else 0
            source = str(left.source.metadata.get("source") or left.source.id)
            whole = files.get(source, left.original_text)
            for start, end in ((offset + a, offset + b) for a, b in left.spans):
                handle = self._originals.hold(whole, [(start, end)], source)
                passages.append(Passage(handle=handle, source=source, start=start, end=end, text=whole[start:end]))
        return Found(
            passages=passages,
            tokens_before=compression.tokens_before,
            tokens_after=compression.tokens_after,
            skipped=skipped,
        )


def create_server(settings: ServerSettings, folders: Sequence[Path], engine: Engine | None = None) -> MCPServer[None]:
    """The server with its three tools.

    Args:
        settings: which draft reads.
        folders: where files may be read.
        engine: what reads; None loads it when it is first needed.
    """
    tools = Tools(settings, folders, engine)
    server: MCPServer[None] = MCPServer(
        "spec-rag",
        version=spec_rag.__version__,
        instructions="Search files or compress long texts for a question instead of reading them whole; expand a "
        f"passage by its handle where its surroundings are needed. Files: {KINDS}.",
        log_level="ERROR",
    )
    for tool in (tools.compress, tools.search_and_compress, tools.expand):
        server.tool()(tool)
    return server
