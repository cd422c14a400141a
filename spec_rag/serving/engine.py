"""Asynchronous interface of a server to its models: `Engine`, and `LocalEngine` in this process.

Cancelling a task stops its work.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from spec_rag.answering.conversation import PAIR_BYTES, WriteOnceCache, text_bytes
from spec_rag.errors import ConfigError
from spec_rag.generation.tool_grammars import OPENING
from spec_rag.options.compression import CompressionConfig, SpecKVConfig, options_of
from spec_rag.results import Answer
from spec_rag.text.documents import Document, as_documents
from spec_rag.text.words import has_words
from spec_rag.utils.cancellation import Cancellation, in_thread
from spec_rag.utils.progress import Listener, listening

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spec_rag.compression.document_draft import Draft
    from spec_rag.compression.encoding_cache import DocumentIndex
    from spec_rag.compression.packing import ScoredDocuments
    from spec_rag.generation.client import GenerationClient
    from spec_rag.models.model_pair import ModelPair
    from spec_rag.report import Compression
    from spec_rag.serving.settings import ServerSettings

# cache of scored documents, for further requests with another budget
READINGS = 16
READING_BYTES = 256 * 2**20
_BUDGET = options_of("size", "output", "retention")


@dataclass(frozen=True)
class GenerationRequest:
    """One requested answer.

    Args:
        prompt: text, chat messages of OpenAI's API, or token ids.
        tools: tools of OpenAI's API.
        assistant_prefix: prefix of the answer.
        max_new_tokens: maximum length.
        options: further keywords of `spec_rag.generate`, and `stop_token_ids` in addition to the end tokens.
        template_variables: additional variables of the chat template.
    """

    prompt: str | Sequence[Mapping[str, Any]] | Sequence[int]
    max_new_tokens: int
    tools: Sequence[Mapping[str, Any]] = ()
    assistant_prefix: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    template_variables: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """The operations of a server's models.

    Attributes:
        kv_bytes_per_token: bytes of keys and values per token in the target; None if unknown.
    """

    kv_bytes_per_token: int | None

    async def compress(
        self, documents: Sequence[Document], query: str, config: CompressionConfig, listener: Listener | None = None
    ) -> Compression:
        """Compress documents for a question; progress is reported to `listener`."""

    async def relevance(self, documents: Sequence[Document], query: str, config: CompressionConfig) -> list[float]:
        """Relevance score of each document; higher is better."""

    async def shortened(self, documents: Sequence[Document], max_tokens: int) -> list[Document]:
        """Truncate each document to this many tokens of the draft."""

    async def count(self, texts: Sequence[str]) -> int:
        """Number of tokens of the texts in the draft's tokenizer."""

    async def answer(self, request: GenerationRequest) -> Answer:
        """The complete answer."""

    def stream(self, request: GenerationRequest) -> AsyncGenerator[str | Answer, None]:
        """The pieces of the text, and the Answer as the last item."""


class LocalEngine:
    """Both models in this process.

    Args:
        pair: draft and target; the target is None with an upstream.
        speckv: KV cache pruning.
        timeout_seconds: from the request to the last token.
        index: cache of encoded documents; None is one in memory.
    """

    def __init__(
        self,
        pair: ModelPair,
        *,
        speckv: SpecKVConfig | None = None,
        timeout_seconds: float | None = None,
        index: DocumentIndex | None = None,
    ) -> None:
        from spec_rag.compression.document_draft import Draft
        from spec_rag.compression.encoding_cache import DocumentIndex

        self.pair = pair
        self.draft: Draft | None = Draft.of(pair) if pair.draft is not None else None
        self.kv_bytes_per_token = None if pair.target is None else _kv_bytes(pair.target)
        self._speckv = speckv
        self._timeout_seconds = timeout_seconds
        self._index = DocumentIndex() if index is None else index
        self._readings: WriteOnceCache[ScoredDocuments] = WriteOnceCache(READINGS, READING_BYTES, _bytes_of)

    @classmethod
    def load(cls, settings: ServerSettings, *, reads: bool = True, answers: bool = True) -> LocalEngine:
        """Load the models of the settings.

        Raises:
            ModelNotFoundError: a model is not found.
        """
        from spec_rag.compression.encoding_cache import DocumentIndex
        from spec_rag.models.model_pair import ModelPair
        from spec_rag.options.loading import LoadOptions

        options = LoadOptions(device=settings.device) if settings.device else None
        draft = settings.draft if reads or settings.speckv is not None else None
        target = settings.target if answers else None
        pair = ModelPair.load(draft, target, draft_options=options, target_options=options)
        index = DocumentIndex(settings.index) if settings.index else None
        return cls(pair, speckv=settings.speckv, timeout_seconds=settings.timeout_seconds, index=index)

    async def compress(
        self, documents: Sequence[Document], query: str, config: CompressionConfig, listener: Listener | None = None
    ) -> Compression:
        """See Engine; scores are reused for the same documents and question with another budget."""
        return await in_thread(lambda cancelled: self._compressed(documents, query, config, listener, cancelled))

    async def relevance(self, documents: Sequence[Document], query: str, config: CompressionConfig) -> list[float]:
        """See Engine: the score of the best unit that contains words."""
        if not any(document.text.strip() for document in documents):
            return [float("-inf")] * len(documents)
        scored = await in_thread(lambda cancelled: self._read(documents, query, config, None, cancelled))
        assert scored.scores is not None
        scores = iter(scored.scores.tolist())
        relevance = []
        for document, units in zip(scored.documents, scored.units, strict=True):
            pairs = [(next(scores), has_words(document.text[start:end])) for start, end in units]
            relevance.append(max((score for score, counts in pairs if counts), default=float("-inf")))
        return relevance

    async def shortened(self, documents: Sequence[Document], max_tokens: int) -> list[Document]:
        """See Engine; documents are cut between two tokens."""
        tokenizer = self._reader().tokenizer
        return await in_thread(lambda cancelled: [_cut(tokenizer, document, max_tokens) for document in documents])

    async def count(self, texts: Sequence[str]) -> int:
        """See Engine."""
        from spec_rag.text.token_counting import token_counter

        count = token_counter("draft", self._reader().tokenizer)
        return await in_thread(lambda cancelled: sum(map(count, texts)))

    async def answer(self, request: GenerationRequest) -> Answer:
        """See Engine; waiting requests with the same settings are answered in one batch."""
        prompt = await in_thread(lambda cancelled: self._prompt(request))
        return await self._client(request).aanswer(prompt)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[str | Answer, None]:
        """See Engine; waiting requests with the same settings are answered in one batch."""
        prompt = await in_thread(lambda cancelled: self._prompt(request))
        pieces = self._client(request).astream(prompt)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    def _client(self, request: GenerationRequest) -> GenerationClient:
        from spec_rag.generation import request as generation
        from spec_rag.generation.client import GenerationClient
        from spec_rag.generation.end_tokens import answer_ends

        options = {name: value for name, value in request.options.items() if name != "stop_token_ids"}
        if stop := request.options.get("stop_token_ids"):
            options["eos_token_id"] = [*answer_ends(self.pair), *stop]
        if bias := request.options.get("sequence_bias"):
            self._check_tokens("logit_bias", [ids[0] for ids, _ in bias])
        options |= {"max_new_tokens": request.max_new_tokens, "speckv": self._speckv}
        return GenerationClient(generation.GenerationRequest.of(self.pair, **options), self._timeout_seconds)

    def _prompt(self, request: GenerationRequest) -> list[int]:
        from spec_rag.serving.chat_templates import served_chat_ids, with_template_variables
        from spec_rag.text.prompts import prompt_ids, speaks_of_tools, template_text

        tokenizer = self.pair.require_tokenizer()
        prompt: Any = request.prompt
        if isinstance(prompt, str) or all(isinstance(token, int) for token in prompt):
            ids: list[int] = prompt_ids(tokenizer, prompt).tolist()
            self._check_tokens("prompt", ids)
            return ids
        if request.template_variables:
            tokenizer = with_template_variables(tokenizer, request.template_variables)
        if request.tools and not speaks_of_tools(tokenizer):
            raise ConfigError("tools: the model's chat template does not support tools. Leave them out.")
        if request.assistant_prefix and OPENING not in template_text(tokenizer):
            raise ConfigError("tool_choice: the model's chat template has no known tool-call format: give 'auto'.")
        return served_chat_ids(tokenizer, prompt, request.tools, request.assistant_prefix)

    def _check_tokens(self, name: str, ids: Sequence[int]) -> None:
        vocabulary = self.pair.require_target().get_input_embeddings().num_embeddings
        if max(ids) >= vocabulary:
            raise ConfigError(f"{name}: {max(ids)} is not a token of the model, which has {vocabulary}.")

    def _compressed(
        self,
        documents: Sequence[Document],
        query: str,
        config: CompressionConfig,
        listener: Listener | None,
        cancelled: Cancellation,
    ) -> Compression:
        from spec_rag.compression.compress import keep
        from spec_rag.compression.packing import ScoredDocuments
        from spec_rag.text.token_counting import token_counter

        draft, documents = self._reader(), as_documents(documents)
        if not query.strip():
            raise ConfigError(f"query={query!r} is empty: compression is guided by a question, so give one.")
        count = cache(token_counter("draft", draft.tokenizer))
        blank = not any(document.text.strip() for document in documents)
        if blank or not config.needs_reading([count(document.text) for document in documents]):
            scored = ScoredDocuments.unread(documents, query, draft.name)
        else:
            scored = self._read(documents, query, config, listener, cancelled)
        return keep(scored, config, count)

    def _read(
        self,
        documents: Sequence[Document],
        query: str,
        config: CompressionConfig,
        listener: Listener | None,
        cancelled: Cancellation,
    ) -> ScoredDocuments:
        from spec_rag.compression.compress import read_documents

        documents = as_documents(documents)
        # the prefilter also depends on the budget
        is_scored = any(document.score is not None for document in documents)
        prefilters = config.cascade == "always" or (config.cascade != "never" and is_scored)
        ignored = () if prefilters else _BUDGET
        settings = {name: repr(value) for name, value in dict(config).items() if name not in ignored}
        contents = tuple((document.title, document.text, document.score) for document in documents)
        key = (contents, query, tuple(settings.items()))
        cached = self._readings.get(key)
        if cached is not None:
            return replace(cached, documents=documents, seconds=0.0)
        with listening(listener or (lambda what, done, total: None)):
            scored = read_documents(self._reader(), documents, query, config, index=self._index, cancelled=cancelled)
        self._readings.keep(key, scored)
        return scored

    def _reader(self) -> Draft:
        if self.draft is None:
            raise ConfigError("draft=None: documents are scored by a draft: give one.")
        return self.draft


def _cut(tokenizer: Any, document: Document, max_tokens: int) -> Document:
    from spec_rag.text.tokenization import encoded_text

    offsets = encoded_text(tokenizer, document.text).offsets
    return document if len(offsets) <= max_tokens else replace(document, text=document.text[: offsets[max_tokens][0]])


def _bytes_of(scored: ScoredDocuments) -> int:
    """Approximate size in memory: texts, units, and two ranges per token."""
    texts = sum(text_bytes(document.text) for document in scored.documents)
    units = sum(map(len, scored.units))
    tokens = sum(len(passage.ids) for passage in scored.passages)
    return texts + (units + 2 * tokens) * PAIR_BYTES


def _kv_bytes(model: PreTrainedModel) -> int | None:
    """Bytes of keys and values per token in all layers."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    width = getattr(config, "head_dim", None)
    if width is None and heads and getattr(config, "hidden_size", None):
        width = config.hidden_size // config.num_attention_heads
    layers = getattr(config, "num_hidden_layers", None)
    return int(2 * layers * heads * width * model.dtype.itemsize) if layers and heads and width else None
