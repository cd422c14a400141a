"""What the routes of one server share, found through the request."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field

from fastapi import Request

from spec_rag.results import Answer
from spec_rag.serving.conversations import Conversations
from spec_rag.serving.engine import Engine
from spec_rag.serving.metrics import Metrics
from spec_rag.serving.settings import ServerSettings
from spec_rag.serving.stored_files import StoredFiles
from spec_rag.serving.upstream import Upstream

# as many as one batch of answers: further readings would only delay it
_READ_AND_UNANSWERED = 8


@dataclass
class ServerState:
    """One server: its settings, models, memory of conversations, and metrics.

    Attributes:
        turns: held by a chat from before its documents are read until its answer has begun (a stream) or is complete.
            Chats take it in their order of arrival, so that under overload the first are answered before the last are
            read.
    """

    settings: ServerSettings
    metrics: Metrics
    engine: Engine
    draft_name: str
    model_name: str
    conversations: Conversations = field(init=False)
    files: StoredFiles = field(init=False)
    upstream: Upstream | None = None
    started: int = field(default_factory=lambda: int(time.time()))
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READ_AND_UNANSWERED))

    def __post_init__(self) -> None:
        self.conversations = Conversations(
            self.engine, self.settings.min_chars, self.metrics, self.settings.conversation_bytes
        )
        self.files = StoredFiles(self.settings.conversation_bytes)

    def note_answer(self, request: Request, answer: Answer) -> None:
        """Count an answer, and put its figures into the request's line of log."""
        self.metrics.count_answer(answer)
        noted = request.scope.get("spec_rag", {})
        for name in ("prompt_tokens", "completion_tokens"):
            noted[name] = noted.get(name, 0) + answer.usage[name]


def of(request: Request) -> ServerState:
    """The server that a request came to."""
    server: ServerState = request.app.state.server
    return server


def client_of(request: Request) -> str:
    """A name for who asks: nothing that was compressed for one client is shown to another."""
    return hashlib.sha256(request.headers.get("authorization", "").encode("utf-8", "replace")).hexdigest()
