"""Tools for agents over the Model Context Protocol: compress texts, search files and compress, expand what was kept.

Only files inside the folders that the server was started with are read; links that lead out of them are not followed.
Every kept passage has a handle, which returns its surroundings as long as the server runs and remembers the text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from urllib.request import url2pathname

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.server.mcpserver.resources import ResourceSecurity
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, ResourceLink, TextContent, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, create_model

import spec_rag
from spec_rag.answering.chunking import DEFAULT_TOP_K, Chunk
from spec_rag.compression.originals import MAX_CHARS, Originals
from spec_rag.errors import SpecRagError
from spec_rag.loaders.reading import KINDS
from spec_rag.options.compression import CompressionConfig
from spec_rag.options.tool_results import ToolResultOptions
from spec_rag.report import Compression
from spec_rag.results import CompressedDocument
from spec_rag.serving.engine import Engine, LocalEngine
from spec_rag.serving.folder_search import FolderSearch, FoundChunks
from spec_rag.serving.settings import ServerSettings
from spec_rag.text.documents import Document
from spec_rag.text.units import cut_at_words
from spec_rag.tool_results.shorten import Plan, plan_result
from spec_rag.utils.cancellation import in_thread

DEFAULT_TOKENS = 600
AROUND = 5
_ANNOTATIONS = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False)
_WHOLE_TEXTS = ToolResultOptions(min_chars=1)
_SKIPPED = 5  # files left out that a result names

Question = Annotated[str, Field(description="The question, as a whole sentence.")]
MaxTokens = Annotated[int, Field(description="Keep at most this many tokens of all texts together.")]
Paths = Annotated[
    list[str] | None,
    Field(description="Files or folders, relative to the server's folders. null searches all of them."),
]
TopK = Annotated[int, Field(description="Number of chunks of about 900 characters that are read.")]
Handle = Annotated[str, Field(description="Handle of a kept passage, copied exactly.")]
Before = Annotated[int | None, Field(description="Sentences before the passage.")]
After = Annotated[int | None, Field(description="Sentences after the passage; null for both is the whole source.")]

FirstLine = Annotated[int | None, Field(description="First line of the source to return; overrides the sentences.")]
LastLine = Annotated[int | None, Field(description="Last line to return; null is the first.")]


class Passage(BaseModel):
    """A kept passage: its handle, and the characters of its source that it is."""

    handle: str
    source: str
    start: int
    end: int
    text: str


class Omitted(BaseModel):
    """Characters of a source that are left out, and the handle of the whole source."""

    source: str
    characters: int
    of_characters: int
    kind: str
    handle: str

    def __str__(self) -> str:
        count = f"{self.characters:,} of {self.of_characters:,} characters of {self.source}"
        return f"[… {count} omitted: {self.kind}; handle {self.handle}]"


class Found(BaseModel):
    """What was kept, what of its sources was left out, and which files could not be read."""

    passages: list[Passage]
    tokens_before: int
    tokens_after: int
    omitted: list[Omitted] = []
    skipped: list[str] = []

    def __str__(self) -> str:
        lines = [f"[{one.handle}] {one.source}:{one.start}-{one.end}\n{one.text}" for one in self.passages]
        lines += ["\n".join(map(str, self.omitted))] if self.omitted else []
        lines.append(f"{self.tokens_after} of {self.tokens_before} tokens are kept.")
        return "\n\n".join([*lines, *(["Skipped:\n" + "\n".join(self.skipped)] if self.skipped else [])])


class Expanded(BaseModel):
    """A passage with what stands around it."""

    source: str
    start: int
    end: int
    text: str
    is_whole: bool = Field(description="Whether this is the whole source.")

    def __str__(self) -> str:
        whole = " (whole)" if self.is_whole else ""
        return f"{self.source}:{self.start}-{self.end}{whole}\n{self.text}"


class Given(BaseModel):
    """A text to be compressed."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(description="The text.")
    title: str | None = Field(default=None, description="Its title, such as the name of its file or page.")


Texts = Annotated[list[Given], Field(description="The texts to shorten.")]


class Tools:
    """What the tools do, without the protocol.

    Args:
        engine: what reads; None loads the draft of the settings when it is first needed.
        settings: which draft.
        folders: the folders that may be read; a folder may itself be a link.
    """

    def __init__(self, settings: ServerSettings, folders: Sequence[Path], engine: Engine | None = None) -> None:
        self._settings = settings
        self._search = FolderSearch([folder.resolve() for folder in folders]) if folders else None
        self._engine = engine
        self._loading = asyncio.Lock()
        self._originals = Originals()

    async def compress(
        self, texts: Texts, query: Question, ctx: Context[Any, Any], max_tokens: MaxTokens = DEFAULT_TOKENS
    ) -> Annotated[CallToolResult, Found]:
        """Keep the sentences of long texts that matter for a question. Use it before reading long tool results."""
        await ctx.report_progress(0, 1, "Reading the texts")
        documents = [Document(one.text, one.title, f"text {i + 1}") for i, one in enumerate(texts)]
        return _result(self._found(await self._compressed(documents, query, max_tokens), {}, []))

    async def search_and_compress(
        self,
        query: Question,
        ctx: Context[Any, Any],
        paths: Paths = None,
        max_tokens: MaxTokens = DEFAULT_TOKENS,
        top_k: TopK = DEFAULT_TOP_K,
    ) -> Annotated[CallToolResult, Found]:
        """Search files for a question, and return the sentences that matter, with their places."""
        search = self._search
        if search is None:
            raise ToolError("The server was started without a folder: spec-rag mcp FOLDER")
        await ctx.report_progress(0, 2, "Searching the files")
        try:
            found: FoundChunks = await in_thread(lambda cancelled: search.search(query, paths, top_k))
        except (SpecRagError, OSError) as error:
            raise ToolError(str(error)) from error
        await ctx.report_progress(1, 2, f"Reading {len(found.chunks)} chunks")
        kept = self._found(await self._compressed(found.chunks, query, max_tokens), found.texts, found.skipped)
        sources = dict.fromkeys(one.source for one in kept.passages)
        return _result(kept, [_link(source, found.texts[source]) for source in sources])

    async def file(self, path: str) -> str:
        """Text of a file in the folders of the server."""
        search = self._search
        if search is None:
            raise ResourceError("The server was started without a folder: spec-rag mcp FOLDER")
        try:
            return await in_thread(lambda cancelled: search.text(url2pathname(quote(f"/{path}", safe="/:"))))
        except (SpecRagError, OSError) as error:
            raise ResourceError(str(error)) from error

    async def expand(
        self,
        handle: Handle,
        context_before: Before = AROUND,
        context_after: After = AROUND,
        first_line: FirstLine = None,
        last_line: LastLine = None,
    ) -> Annotated[CallToolResult, Expanded]:
        """Return a kept passage with the sentences around it, or lines of its source."""
        lines = None if first_line is None else (first_line, last_line or first_line)
        try:
            found = self._originals.expand(handle, context_before, context_after, lines)
        except SpecRagError as error:
            raise ToolError(str(error)) from error
        (whole,) = found.spans
        start, end = cut_at_words(found.original_text, whole, MAX_CHARS)[0]
        text = found.original_text[start:end]
        is_whole = text.strip() == found.original_text.strip()
        return _result(Expanded(source=found.title or "", start=start, end=end, text=text, is_whole=is_whole))

    async def _compressed(self, documents: Sequence[Document], query: str, max_tokens: int) -> Compression:
        try:
            config = CompressionConfig(max_tokens=max_tokens, language="auto")
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
        sources: dict[str, str] = {}
        kinds: dict[str, str] = {}
        for left in compression.documents:
            offset = left.source.start if isinstance(left.source, Chunk) else 0
            source = str(left.source.metadata.get("source") or left.source.id)
            whole = sources[source] = files.get(source, left.original_text)
            plan = plan_result(whole, _WHOLE_TEXTS)
            kinds[source] = plan.kind
            if plan.kind not in ("prose", "markdown", "html") and source not in files:
                text = plan.result.text if plan.result else self._by_kind(plan, compression, left)
                handle = self._originals.hold(whole, [], source)
                passages.append(Passage(handle=handle, source=source, start=0, end=len(whole), text=text))
                continue
            for start, end in ((offset + a, offset + b) for a, b in left.spans):
                handle = self._originals.hold(whole, [(start, end)], source)
                passages.append(Passage(handle=handle, source=source, start=start, end=end, text=whole[start:end]))
        return Found(
            passages=passages,
            tokens_before=compression.tokens_before,
            tokens_after=compression.tokens_after,
            omitted=self._omitted(passages, sources, kinds),
            skipped=_shortened(skipped),
        )

    def _by_kind(self, plan: Plan, compression: Compression, left: CompressedDocument) -> str:
        """A text of a kind with a format of its own, within the tokens that it has in the compression."""
        own = replace(compression, documents=[left], budget_tokens=left.tokens_after)
        return plan.shortened(own, self._originals).text

    def _omitted(
        self, passages: Sequence[Passage], sources: Mapping[str, str], kinds: Mapping[str, str]
    ) -> list[Omitted]:
        found = []
        for source, whole in sources.items():
            kept = sum(one.end - one.start for one in passages if one.source == source)
            if kept < len(whole.strip()):
                handle = self._originals.hold(whole, [], source)
                left = len(whole) - kept
                found.append(
                    Omitted(
                        source=source,
                        characters=left,
                        of_characters=len(whole),
                        kind=kinds[source],
                        handle=handle,
                    )
                )
        return found


def _shortened(skipped: list[str]) -> list[str]:
    more = len(skipped) - _SKIPPED
    return skipped if more <= 0 else [*skipped[:_SKIPPED], f"and {more} more"]


def _result(content: Found | Expanded, links: Sequence[ResourceLink] = ()) -> CallToolResult:
    """A result as fields for programs, and as short text for models with links to its files."""
    data = content.model_dump(mode="json")
    return CallToolResult(content=[TextContent(type="text", text=str(content)), *links], structured_content=data)


def _link(source: str, text: str) -> ResourceLink:
    """A link to a file, which `resources/read` returns as text."""
    path = Path(source)
    size = len(text.encode("utf-8", "replace"))
    return ResourceLink(uri=path.as_uri(), name=path.name, mime_type="text/plain", size=size)


def _strict(tool: Tool) -> Tool:
    """The tool with unknown arguments refused."""
    arguments = tool.fn_metadata.arg_model
    strict = create_model(arguments.__name__, __base__=arguments, __doc__=arguments.__doc__)
    strict.model_config["extra"] = "forbid"
    strict.model_rebuild(force=True)
    tool.fn_metadata.arg_model = strict
    tool.parameters = strict.model_json_schema(by_alias=True)
    return tool


def create_server(settings: ServerSettings, folders: Sequence[Path], engine: Engine | None = None) -> MCPServer[None]:
    """The server with its three tools, and the files of its folders as resources.

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
        tools=[
            _strict(Tool.from_function(function, title=title, annotations=_ANNOTATIONS))
            for function, title in (
                (tools.compress, "Shorten texts for a question"),
                (tools.search_and_compress, "Search files for a question"),
                (tools.expand, "Show what surrounds a passage"),
            )
        ],
    )
    server.resource(
        "file:///{+path}",
        name="file",
        title="Text of a file in the folders",
        security=ResourceSecurity(reject_absolute_paths=False),  # a drive's letter
    )(tools.file)
    return server
