"""What a server is started with: models, limits, keys. Importing it loads neither torch nor a web framework."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig, SpecKVConfig
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.text.patterns import PATTERNS

MAX_ELLIPSIS = 100


@dataclass(frozen=True)
class ServerSettings:
    """How a server works.

    Args:
        draft: what reads documents: hub id, folder or .gguf file.
        target: what answers; None where an upstream does.
        upstream: base URL of the server that answers, such as "http://localhost:8000/v1".
        upstream_key: its API key; None hands on the client's own.
        served_name: how the target is called in requests; None takes its own name.
        device: of both models; None takes the best there is.
        index: folder where read documents are kept; None keeps them in memory.
        api_keys: keys of which each request must bring one; none lets everybody in.
        allowed_hosts: values of the Host header that are answered, without ports; empty answers all.
        cors_origins: origins whose web pages may use the API, such as "https://example.com"; "*" stands for all.
        compression: how documents are compressed where a request does not say.
        speckv: how the target's KV cache is pruned; None keeps it whole.
        min_chars: tool results and marked texts below this length are left as they are.
        max_body_bytes: of a request.
        max_documents: of a request.
        conversation_bytes: of what is remembered of conversations; the least recently used goes first.
        max_completion_tokens: the most that a request may ask for.
        default_completion_tokens: where it does not ask.
        max_requests: so many run or wait at a time; the next is refused with status 429.
        timeout_seconds: from a request to its last token; with an upstream, of its silence.
        header_timeout_seconds: for the headers of a request, and of an idle connection.
        body_timeout_seconds: for the whole body of a request, and a second more for each 16 KiB.
        shutdown_seconds: time for running requests to finish after SIGTERM; then they are cut.

    Raises:
        ConfigError: a value is out of range, or neither target nor upstream, or both, would answer.
    """

    draft: str = DEFAULT_DRAFT
    target: str | None = DEFAULT_DRAFT
    upstream: str | None = None
    upstream_key: str | None = field(default=None, repr=False)
    served_name: str | None = None
    device: str | None = None
    index: str | None = None
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    speckv: SpecKVConfig | None = None
    min_chars: int = 1000
    max_body_bytes: int = 16 * 2**20
    max_documents: int = 256
    conversation_bytes: int = 256 * 2**20
    max_completion_tokens: int = 2048
    default_completion_tokens: int = 256
    max_requests: int = 64
    timeout_seconds: float = 300.0
    header_timeout_seconds: float = 15.0
    body_timeout_seconds: float = 30.0
    shutdown_seconds: float = 60.0

    def __post_init__(self) -> None:
        if (self.target is None) == (self.upstream is None):
            raise ConfigError(
                f"target={self.target!r} and upstream={self.upstream!r}: exactly one of them answers. Give target=None "
                "with an upstream."
            )
        if self.upstream is not None and not self.upstream.startswith(("http://", "https://")):
            raise ConfigError(f"upstream={self.upstream!r}: give a URL, such as 'http://localhost:8000/v1'.")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
                raise ConfigError(
                    f"cors_origins={origin!r}: give scheme and host alone, such as 'https://example.com', or '*'."
                )
        for host in self.allowed_hosts:
            if not re.fullmatch(r"\*|\[[0-9a-fA-F:.]+\]|[^/:\s]+", host):
                raise ConfigError(
                    f"allowed_hosts={host!r}: give a name without scheme and port, such as 'example.com'."
                )
        if any(not key.strip() or not key.isascii() for key in self.api_keys):
            raise ConfigError("api_keys: a key is empty or has characters that no header can carry.")
        if self.compression.order != "given":
            raise ConfigError(f"compression.order={self.compression.order!r}: a server answers in the request's order.")
        for name in (
            *("max_body_bytes", "max_documents", "conversation_bytes"),
            *("max_completion_tokens", "max_requests"),
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be at least 1.")
        for name in ("timeout_seconds", "header_timeout_seconds", "body_timeout_seconds", "shutdown_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)!r}: must be above 0.")
        if not 1 <= self.default_completion_tokens <= self.max_completion_tokens:
            raise ConfigError(
                f"default_completion_tokens={self.default_completion_tokens}: must be between 1 and "
                f"max_completion_tokens={self.max_completion_tokens}."
            )

    def compression_with(self, given: dict[str, Any] | None) -> CompressionConfig:
        """How documents are compressed for a request that says so much about it.

        Raises:
            ConfigError: a field is unknown, out of range, reads files of this machine, or is a regular expression,
                which could keep it busy for hours.
        """
        given = {name: value for name, value in (given or {}).items() if value is not None}
        if given.get("calibration") not in (None, "shipped", self.compression.calibration):
            raise ConfigError(f"calibration={given['calibration']!r}: a request may give 'shipped' alone.")
        keep = given.get("keep", ())
        for one in keep if isinstance(keep, list | tuple) else [keep]:
            if one not in (*PATTERNS, *self.compression.keep):
                raise ConfigError(f"keep={one!r:.80}: a request may give {', '.join(map(repr, PATTERNS))}.")
        if len(str(given.get("ellipsis") or "")) > MAX_ELLIPSIS:
            raise ConfigError(f"ellipsis={given['ellipsis']!r:.80}: a request may give {MAX_ELLIPSIS} characters.")
        if given.get("order", "given") != "given":
            raise ConfigError(f"order={given['order']!r:.80}: the documents of a response are in the request's order.")
        chosen = CompressionConfig.overridden(dict(self.compression), given)
        chosen.pop("preset", None)
        return CompressionConfig(**chosen)
