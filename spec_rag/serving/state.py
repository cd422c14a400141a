"""State that the routes of one server share."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from spec_rag.results import Answer
from spec_rag.serving.conversations import Conversations
from spec_rag.serving.engine import Engine
from spec_rag.serving.metrics import Metrics
from spec_rag.serving.settings import ServerSettings
from spec_rag.serving.stored_files import StoredFiles
from spec_rag.serving.upstream import Upstream
from spec_rag.utils.lru_cache import LRUCache

# one batch of answers; scoring documents of more requests would delay it
_READ_AND_UNANSWERED = 8
_RESPONSES = 4096  # stored for /v1/responses


@dataclass
class ServerState:
    """Settings, models, conversations and metrics of one server.

    Attributes:
        turns: held by a chat from before compression until its answer is complete or its stream has begun. FIFO: under
            overload the first chats are answered before the last are compressed.
    """

    settings: ServerSettings
    metrics: Metrics
    engine: Engine
    draft_name: str
    model_name: str
    conversations: Conversations = field(init=False)
    responses: LRUCache[str, dict[str, Any]] = field(init=False)
    files: StoredFiles = field(init=False)
    upstream: Upstream | None = None
    started: int = field(default_factory=lambda: int(time.time()))
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READ_AND_UNANSWERED))

    def __post_init__(self) -> None:
        self.conversations = Conversations(
            self.engine,
            self.settings.tool_result_options,
            self.metrics,
            self.settings.conversation_bytes,
            is_audit=self.settings.audit,
        )
        self.files = StoredFiles(self.settings.conversation_bytes)

        self.responses = LRUCache(max(self.settings.conversation_bytes // 4, 1), _RESPONSES)

    def note_answer(self, request: Request, answer: Answer) -> None:
        """Count an answer in the metrics and the log line of its request."""
        self.metrics.count_answer(answer)
        log_fields = request.scope.get("spec_rag", {})
        for name in ("prompt_tokens", "completion_tokens"):
            log_fields[name] = log_fields.get(name, 0) + answer.usage[name]


def of(request: Request) -> ServerState:
    """The state of the server of a request."""
    server: ServerState = request.app.state.server
    return server


def client_of(request: Request) -> str:
    """Hash of the client's credentials; compressed texts are not shared between clients."""
    return hashlib.sha256(request.headers.get("authorization", "").encode("utf-8", "replace")).hexdigest()
