"""The models behind a server, for its event loop: documents are read by one, answers are written by the other.

`Engine` is what the server asks for; `LocalEngine` has both models in this process. Cancelling a task ends its work.
This module does not know HTTP.
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

# of documents that are asked for at other budgets
READINGS = 16
READING_BYTES = 256 * 2**20
_BUDGET = options_of("size", "output", "retention")


@dataclass(frozen=True)
class GenerationRequest:
    """One answer that is asked for.

    Args:
        prompt: text, chat messages as OpenAI's API has them, or token ids.
        tools: what the model may call, as OpenAI's API has them.
        assistant_prefix: first characters of the answer.
        max_new_tokens: at most so many tokens.
        options: further keywords of `spec_rag.generate`, and `stop_token_ids`, which end an answer besides its end
            tokens.
        template_variables: further variables of the chat template.
    """

    prompt: str | Sequence[Mapping[str, Any]] | Sequence[int]
    max_new_tokens: int
    tools: Sequence[Mapping[str, Any]] = ()
    assistant_prefix: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    template_variables: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """What a server asks of its models.

    Attributes:
        kv_bytes_per_token: bytes of keys and values that the target holds of a token; None where it is not known.
    """

    kv_bytes_per_token: int | None

    async def compress(
        self, documents: Sequence[Document], query: str, config: CompressionConfig, listener: Listener | None = None
    ) -> Compression:
        """Keep of the documents what matters for the question; `listener` hears of the reading's progress."""

    async def relevance(self, documents: Sequence[Document], query: str, config: CompressionConfig) -> list[float]:
        """How relevant each document is to the question, scored as `config` says; higher is better."""

    async def shortened(self, documents: Sequence[Document], max_tokens: int) -> list[Document]:
        """The documents, each cut after this many of the draft's tokens."""

    async def count(self, texts: Sequence[str]) -> int:
        """Tokens of the texts, as the draft counts them."""

    async def answer(self, ask: GenerationRequest) -> Answer:
        """The whole answer."""

    def stream(self, ask: GenerationRequest) -> AsyncGenerator[str | Answer, None]:
        """The pieces of the answer, and at last the Answer."""


class LocalEngine:
    """Both models in this process.

    Args:
        pair: draft and target; the target may be None where an upstream answers.
        speckv: how the target's KV cache is pruned.
        timeout_seconds: from the request for an answer to its last token.
        index: where read documents are kept; None keeps them in memory.
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
        """Load the models that a server's settings name.

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
        """See Engine; the same documents and question at another budget are not read again."""
        return await in_thread(lambda cancelled: self._compressed(documents, query, config, listener, cancelled))

    async def relevance(self, documents: Sequence[Document], query: str, config: CompressionConfig) -> list[float]:
        """See Engine: the importance of the best unit that has words, after all parts of the score have joined."""
        if not any(document.text.strip() for document in documents):
            return [float("-inf")] * len(documents)
        reading = await in_thread(lambda cancelled: self._read(documents, query, config, None, cancelled))
        assert reading.scores is not None
        scores = iter(reading.scores.tolist())
        found = []
        for document, own in zip(reading.documents, reading.units, strict=True):
            scored = [(next(scores), has_words(document.text[start:end])) for start, end in own]
            found.append(max((score for score, telling in scored if telling), default=float("-inf")))
        return found

    async def shortened(self, documents: Sequence[Document], max_tokens: int) -> list[Document]:
        """See Engine; a document is cut between two tokens, and keeps its own spelling."""
        tokenizer = self._reader().tokenizer
        return await in_thread(lambda cancelled: [_cut(tokenizer, document, max_tokens) for document in documents])

    async def count(self, texts: Sequence[str]) -> int:
        """See Engine."""
        from spec_rag.text.token_counting import token_counter

        count = token_counter("draft", self._reader().tokenizer)
        return await in_thread(lambda cancelled: sum(map(count, texts)))

    async def answer(self, ask: GenerationRequest) -> Answer:
        """See Engine; who waits for the target with the same settings is answered in one batch."""
        prompt = await in_thread(lambda cancelled: self._prompt(ask))
        return await self._requests(ask).aanswer(prompt)

    async def stream(self, ask: GenerationRequest) -> AsyncGenerator[str | Answer, None]:
        """See Engine; who waits for the target with the same settings is answered in one batch."""
        prompt = await in_thread(lambda cancelled: self._prompt(ask))
        pieces = self._requests(ask).astream(prompt)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    def _requests(self, ask: GenerationRequest) -> GenerationClient:
        from spec_rag.generation import request as generation
        from spec_rag.generation.client import GenerationClient
        from spec_rag.generation.end_tokens import answer_ends

        options = {name: value for name, value in ask.options.items() if name != "stop_token_ids"}
        if stop := ask.options.get("stop_token_ids"):
            options["eos_token_id"] = [*answer_ends(self.pair), *stop]
        if bias := ask.options.get("sequence_bias"):
            self._check_tokens("logit_bias", [ids[0] for ids, _ in bias])
        options |= {"max_new_tokens": ask.max_new_tokens, "speckv": self._speckv}
        return GenerationClient(generation.GenerationRequest.of(self.pair, **options), self._timeout_seconds)

    def _prompt(self, ask: GenerationRequest) -> list[int]:
        from spec_rag.serving.chat_templates import served_chat_ids, with_template_variables
        from spec_rag.text.prompts import prompt_ids, speaks_of_tools, template_text

        tokenizer = self.pair.require_tokenizer()
        prompt: Any = ask.prompt
        if isinstance(prompt, str) or all(isinstance(token, int) for token in prompt):
            ids: list[int] = prompt_ids(tokenizer, prompt).tolist()
            self._check_tokens("prompt", ids)
            return ids
        if ask.template_variables:
            tokenizer = with_template_variables(tokenizer, ask.template_variables)
        if ask.tools and not speaks_of_tools(tokenizer):
            raise ConfigError("tools: the model's chat template does not speak of tools. Leave them out.")
        if ask.assistant_prefix and OPENING not in template_text(tokenizer):
            raise ConfigError("tool_choice: the model's chat template does not say how a call begins: give 'auto'.")
        return served_chat_ids(tokenizer, prompt, ask.tools, ask.assistant_prefix)

    def _check_tokens(self, name: str, ids: Sequence[int]) -> None:
        known = self.pair.require_target().get_input_embeddings().num_embeddings
        if max(ids) >= known:
            raise ConfigError(f"{name}: {max(ids)} is not a token of the model, which has {known}.")

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
            reading = ScoredDocuments.unread(documents, query, draft.name)
        else:
            reading = self._read(documents, query, config, listener, cancelled)
        return keep(reading, config, count)

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
        # a cascade looks at the budget, too
        is_scored = any(document.score is not None for document in documents)
        may_leave_out = config.cascade == "always" or (config.cascade != "never" and is_scored)
        unread_by = () if may_leave_out else _BUDGET
        settings = {name: repr(value) for name, value in dict(config).items() if name not in unread_by}
        given = tuple((one.title, one.text, one.score) for one in documents)
        key = (given, query, tuple(settings.items()))
        found = self._readings.get(key)
        if found is not None:
            return replace(found, documents=documents, seconds=0.0)
        with listening(listener or (lambda what, done, total: None)):
            read = read_documents(self._reader(), documents, query, config, index=self._index, cancelled=cancelled)
        self._readings.keep(key, read)
        return read

    def _reader(self) -> Draft:
        if self.draft is None:
            raise ConfigError("draft=None: reading documents needs a draft.")
        return self.draft


def _cut(tokenizer: Any, document: Document, max_tokens: int) -> Document:
    from spec_rag.text.tokenization import encoded_text

    offsets = encoded_text(tokenizer, document.text).offsets
    return document if len(offsets) <= max_tokens else replace(document, text=document.text[: offsets[max_tokens][0]])


def _bytes_of(reading: ScoredDocuments) -> int:
    """Texts, units, and of each token its id, its importance and two ranges."""
    texts = sum(text_bytes(document.text) for document in reading.documents)
    units = sum(map(len, reading.units))
    tokens = sum(len(passage.ids) for passage in reading.passages)
    return texts + (units + 2 * tokens) * PAIR_BYTES


def _kv_bytes(model: PreTrainedModel) -> int | None:
    """Bytes of keys and values of one token in all layers."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    width = getattr(config, "head_dim", None)
    if width is None and heads and getattr(config, "hidden_size", None):
        width = config.hidden_size // config.num_attention_heads
    layers = getattr(config, "num_hidden_layers", None)
    return int(2 * layers * heads * width * model.dtype.itemsize) if layers and heads and width else None
