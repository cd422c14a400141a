"""Settings of a server. Importing this module loads neither torch nor a web framework."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from spec_rag.errors import ConfigError
from spec_rag.options.compression import CompressionConfig, SpecKVConfig
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.options.tool_results import ToolResultOptions
from spec_rag.text.patterns import PATTERNS

MAX_ELLIPSIS = 100


@dataclass(frozen=True)
class ServerSettings:
    """Models, limits and keys of a server.

    Args:
        draft: draft model: hub id, folder or .gguf file.
        target: model that answers; None with an upstream.
        upstream: base URL of the server that answers, such as "http://localhost:8000/v1".
        upstream_key: API key of the upstream; None forwards the key of the client.
        served_name: name of the target in requests; None is its own name.
        device: device of both models; None selects the best one.
        index: folder of encoded documents; None keeps them in memory.
        api_keys: accepted API keys; empty disables authentication.
        allowed_hosts: accepted Host headers without ports; empty accepts all.
        cors_origins: allowed CORS origins, such as "https://example.com"; "*" allows all.
        compression: default compression.
        speckv: KV cache pruning; None disables it.
        min_chars: minimum length of tool results and marked texts that are compressed.
        tool_results: how tool results are shortened; its `min_chars` is that of the field above. Its errors and
            deadline apply in front of an upstream; without one errors are raised.
        audit: forward requests unchanged, and record what would have been saved.
        expand: offer the model of the upstream a tool that returns originals, and answer its calls.
        max_body_bytes: maximum request body.
        max_documents: maximum documents per request.
        conversation_bytes: size of the LRU cache of conversations.
        max_completion_tokens: maximum tokens of an answer.
        default_completion_tokens: tokens of an answer if the request has no limit.
        max_requests: maximum running and waiting requests; further ones get status 429.
        timeout_seconds: from a request to its last token; with an upstream, between two reads.
        header_timeout_seconds: for request headers, and for idle connections.
        body_timeout_seconds: for a request body, plus 1 per 16 KiB.
        shutdown_seconds: for running requests after SIGTERM; then they are cancelled.

    Raises:
        ConfigError: a value is out of range, or not exactly one of target and upstream is given.
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
    tool_results: ToolResultOptions = field(default_factory=ToolResultOptions)
    audit: bool = False
    expand: bool = False
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
                f"target={self.target!r} and upstream={self.upstream!r}: give exactly one of them, and target=None "
                "with an upstream."
            )
        if self.upstream is not None and not self.upstream.startswith(("http://", "https://")):
            raise ConfigError(f"upstream={self.upstream!r}: give a URL, such as 'http://localhost:8000/v1'.")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
                raise ConfigError(
                    f"cors_origins={origin!r}: give scheme and host only, such as 'https://example.com', or '*'."
                )
        for host in self.allowed_hosts:
            if not re.fullmatch(r"\*|\[[0-9a-fA-F:.]+\]|[^/:\s]+", host):
                raise ConfigError(
                    f"allowed_hosts={host!r}: give a name without scheme and port, such as 'example.com'."
                )
        if (self.audit or self.expand) and self.upstream is None:
            raise ConfigError(f"audit={self.audit}, expand={self.expand}: both need an upstream.")
        if any(not key.strip() or not key.isascii() for key in self.api_keys):
            raise ConfigError("api_keys: a key is empty or not ASCII, which no header can carry: give another key.")
        if self.compression.order != "given":
            raise ConfigError(f"compression.order={self.compression.order!r}: a server supports 'given' only.")
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

    @property
    def tool_result_options(self) -> ToolResultOptions:
        """`tool_results` for this server."""
        options = replace(self.tool_results, min_chars=self.min_chars)
        return options if self.upstream else replace(options, on_error="raise", deadline_seconds=None)

    def compression_with(self, options: dict[str, Any] | None) -> CompressionConfig:
        """The compression config with the options of a request.

        Raises:
            ConfigError: an option is unknown or out of range, reads local files, or is a regular expression, which
                could run for hours.
        """
        options = {name: value for name, value in (options or {}).items() if value is not None}
        if options.get("calibration") not in (None, "shipped", self.compression.calibration):
            raise ConfigError(f"calibration={options['calibration']!r}: a request may give 'shipped' only.")
        keep = options.get("keep", ())
        for rule in keep if isinstance(keep, list | tuple) else [keep]:
            if rule not in (*PATTERNS, *self.compression.keep):
                raise ConfigError(f"keep={rule!r:.80}: a request may give {', '.join(map(repr, PATTERNS))}.")
        if len(str(options.get("ellipsis") or "")) > MAX_ELLIPSIS:
            raise ConfigError(f"ellipsis={options['ellipsis']!r:.80}: a request may give {MAX_ELLIPSIS} characters.")
        if options.get("order", "given") != "given":
            raise ConfigError(f"order={options['order']!r:.80}: responses keep the order of the request: give 'given'.")
        chosen = CompressionConfig.overridden(dict(self.compression), options)
        chosen.pop("preset", None)
        return CompressionConfig(**chosen)
