"""What the draft, the index, the retriever and an embedding model say about the units of a question's documents.

Turns documents into passages, reads them (or finds them read), and lines everything up per unit. This module does not
decide what is kept.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spec_rag.attention_capture import capture
from spec_rag.calibration import Calibration, find_calibration, layer_range
from spec_rag.checkpoints import keep_first_layers
from spec_rag.config import CompressionConfig, SpecPCConfig
from spec_rag.document_index import DocumentIndex
from spec_rag.document_reader import DocumentReader, EncodedPassage
from spec_rag.documents import Document
from spec_rag.errors import ConfigError, PromptTooLongError
from spec_rag.importance import PromptImportance
from spec_rag.models import LoadedModel
from spec_rag.prompt import DocumentTokens, document_tokens, frame, question_tokens
from spec_rag.scoring import Evidence, title_links
from spec_rag.selection import smooth
from spec_rag.units import Span

NEUTRAL_QUESTIONS = ("what is this about?", "tell me more about it", "who, what, when and where?")
PASSAGE_CHARS = 2000  # longer documents are read in passages of whole units, so that cost stays linear


@dataclass(frozen=True)
class Passage:
    """A run of a document's units, read in one piece.

    Attributes:
        document: index of its document.
        start, end: its characters in the document's text.
        tokens: as the draft reads it.
        first_token: where its tokens start among all passages' tokens.
    """

    document: int
    start: int
    end: int
    tokens: DocumentTokens
    first_token: int

    def token_range(self, start: int, end: int) -> tuple[int, int]:
        """Tokens [first, last) among all passages' that touch the document's characters [start, end)."""
        first, last = self.tokens.token_range(start - self.start, end - self.start)
        return self.first_token + first, self.first_token + last


def split_passages(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document], units: Sequence[Sequence[Span]]
) -> list[Passage]:
    """Passages of whole units, each of at most PASSAGE_CHARS characters, or one unit."""
    passages: list[Passage] = []
    first_token = 0
    for d, (document, spans) in enumerate(zip(documents, units, strict=True)):
        start = 0
        for i, span in enumerate(spans):
            is_last = i + 1 == len(spans)
            if not is_last and spans[i + 1][1] - start <= PASSAGE_CHARS:
                continue
            end = len(document.text) if is_last else span[1]
            tokens = document_tokens(tokenizer, document.text[start:end], document.title)
            passages.append(Passage(d, start, end, tokens, first_token))
            first_token += len(tokens.ids)
            start = end if is_last else spans[i + 1][0]
    return passages


def gather_evidence(
    loaded: LoadedModel,
    documents: Sequence[Document],
    units: Sequence[Sequence[Span]],
    passages: Sequence[Passage],
    question: str,
    config: CompressionConfig,
    *,
    index: DocumentIndex | None,
    embedder: Any,
    backend: str | None,
) -> Evidence:
    """Evidence from documents that are read one by one, with the question looking at all of them at once."""
    calibration = calibration_for(loaded, config)
    first_layer, last_layer = calibration.layer_range if calibration else layer_range(loaded.total_layers)
    reader = reader_for(loaded, config, backend)
    tokenizer = reader.tokenizer
    encoded = encode_passages(loaded, reader, passages, documents, index)
    asked = question_tokens(tokenizer, reader.frame, question)
    rows = [asked]
    if config.contrast:
        rows += [question_tokens(tokenizer, reader.frame, neutral) for neutral in NEUTRAL_QUESTIONS]
    attention = reader.attention(encoded, rows, first_layer, last_layer).float().cpu()
    return Evidence(
        **align_units(units, passages),
        attention=attention[0],
        neutral=attention[1:].mean(0) if config.contrast else None,
        unit_heads=calibration.weights("unit", first_layer, last_layer) if calibration else None,
        passage_heads=calibration.weights("passage", first_layer, last_layer) if calibration else None,
        log_likelihood=reader.log_likelihood(encoded, asked) if config.likelihood and len(passages) > 1 else None,
        **_around(documents, units, passages, question, config, embedder),
    )


def joint_evidence(
    loaded: LoadedModel,
    documents: Sequence[Document],
    units: Sequence[Sequence[Span]],
    passages: Sequence[Passage],
    question: str,
    config: CompressionConfig,
    *,
    index: DocumentIndex | None,
    embedder: Any,
    backend: str | None,
) -> Evidence:
    """Evidence from one prompt of all documents, as the paper reads them (section 4.2).

    Raises:
        ConfigError: an index was given, which joint reading cannot use.
        PromptTooLongError: the documents are beyond the draft's context.
    """
    if index is not None:
        raise ConfigError("scoring='joint' reads all documents in one prompt, so index= has no use: leave it out.")
    importance = joint_importance(loaded, passages, question, backend)
    smoothed = smooth(importance, SpecPCConfig.kernel_size, SpecPCConfig.pool_type)
    return Evidence(
        **align_units(units, passages),
        attention=smoothed[: sum(len(p.tokens.ids) for p in passages)][None, None],
        **_around(documents, units, passages, question, config, embedder),
    )


def joint_importance(
    loaded: LoadedModel, passages: Sequence[Passage], question: str, backend: str | None = None
) -> Tensor:
    """The paper's importance of each token, from one prompt of instruction, passages and question.

    Returns:
        float32 [passage tokens + question tokens], not smoothed; the question's frame counts as its own.

    Raises:
        PromptTooLongError: the prompt is beyond the draft's context.
    """
    assert loaded.tokenizer is not None
    layout = frame(loaded.tokenizer)
    body = [token for passage in passages for token in passage.tokens.ids]
    ids = [*layout.head, *body, *question_tokens(loaded.tokenizer, layout, question).ids]
    limit = loaded.context_tokens
    if limit is not None and len(ids) > limit:
        raise PromptTooLongError(
            f"scoring='joint' needs a prompt of {len(ids)} tokens, but the draft {loaded.name!r} takes {limit}: use "
            "scoring='per_document', or fewer documents."
        )
    first_layer, _ = layer_range(loaded.total_layers)
    settings = SpecPCConfig(
        window_size=min(64, len(ids) - 1), max_capacity_prompt=len(ids), starting_layer_index=first_layer
    )
    observer = PromptImportance(settings, backend=backend)
    prompt = torch.tensor([ids], device=loaded.model.device)
    with capture(loaded.model, observer), torch.no_grad():
        loaded.model.get_decoder()(input_ids=prompt, use_cache=False)
    return observer.result()[0].float().cpu()[len(layout.head) :]


def calibration_for(loaded: LoadedModel, config: CompressionConfig) -> Calibration | None:
    """The calibration that the settings ask for, if this draft has one.

    Raises:
        ConfigError: it is not found, or it is another draft's.
    """
    found = find_calibration(config.calibration, loaded.name)
    if found is not None:
        heads = int(loaded.model.config.get_text_config(decoder=True).num_attention_heads)
        found.check_fits(loaded.name, loaded.total_layers, heads)
    return found


def reader_for(loaded: LoadedModel, config: CompressionConfig, backend: str | None = None) -> DocumentReader:
    """The reader of that draft, only as deep as the score needs, made once per loaded model.

    Raises:
        ConfigError: the likelihood is asked for, but the draft was loaded for scoring alone.
    """
    assert loaded.tokenizer is not None
    if config.likelihood and loaded.loaded_layers < loaded.total_layers:
        raise ConfigError(
            f"likelihood=True needs all {loaded.total_layers} layers of the draft {loaded.name!r}, of which "
            f"{loaded.loaded_layers} are loaded: load it without scoring_only, or set likelihood=False."
        )
    calibration = calibration_for(loaded, config)
    depth = calibration.layer_range[1] if calibration else layer_range(loaded.total_layers)[1]
    if config.likelihood:
        depth = loaded.total_layers
    elif depth > loaded.loaded_layers:
        raise ConfigError(
            f"calibration={config.calibration!r} listens to {depth} layers of the draft {loaded.name!r}, of which "
            f"{loaded.loaded_layers} are loaded: load it without scoring_only."
        )
    key = (depth, backend)
    if key not in loaded.readers:
        loaded.readers[key] = DocumentReader(loaded.model, loaded.tokenizer, depth, backend)
    reader = loaded.readers[key]
    assert isinstance(reader, DocumentReader)
    return reader


def encode_passages(
    loaded: LoadedModel,
    reader: DocumentReader,
    passages: Sequence[Passage],
    documents: Sequence[Document],
    index: DocumentIndex | None,
) -> list[EncodedPassage]:
    """Read the passages that the index does not know, and let it know them."""
    if index is None:
        return reader.encode([p.tokens.ids for p in passages])
    keys = [passage_key(loaded, reader, index, documents[p.document], p) for p in passages]
    found = [index.get(key) for key in keys]
    missing = [i for i, passage in enumerate(found) if passage is None]
    for i, encoded in zip(missing, reader.encode([passages[i].tokens.ids for i in missing]), strict=True):
        # as the index gives it back, so that this question sees what later ones will
        found[i] = index.put(keys[i], encoded)
    return [passage for passage in found if passage is not None]


def passage_key(
    loaded: LoadedModel, reader: DocumentReader, index: DocumentIndex, document: Document, passage: Passage
) -> str:
    """The address of an encoded passage: everything that its keys and values depend on."""
    fingerprint = ("fingerprint", reader.depth)
    if fingerprint not in loaded.readers:
        loaded.readers[fingerprint] = _fingerprint(loaded, reader.depth)
    return index.key(
        document.text[passage.start : passage.end],
        document.title or "",
        loaded.readers[fingerprint],
        str(loaded.model.dtype),
        str(reader.depth),
        repr(reader.frame.head),
    )


def _fingerprint(loaded: LoadedModel, depth: int) -> str:
    """The same for a draft and for its first layers loaded alone; another for other weights."""
    config = copy.deepcopy(loaded.model.config)
    keep_first_layers(config, depth)
    described = config.to_dict()
    for volatile in ("_name_or_path", "transformers_version", "_attn_implementation", "dtype"):
        described.pop(volatile, None)
    digest = hashlib.sha256(repr(sorted(described.items(), key=lambda item: item[0])).encode())
    decoder = loaded.model.get_decoder()
    last_layer = list(decoder.layers[depth - 1].parameters())
    for weight in (loaded.model.get_input_embeddings().weight[:64], *last_layer):
        digest.update(weight.detach().flatten()[:4096].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def align_units(units: Sequence[Sequence[Span]], passages: Sequence[Passage]) -> dict[str, Tensor]:
    """The fields of Evidence that say which tokens, passage and document each unit has."""
    ranges, owners = [], []
    for d, spans in enumerate(units):
        own = [(i, p) for i, p in enumerate(passages) if p.document == d]
        for start, end in spans:
            i, passage = next((i, p) for i, p in own if p.start <= start and end <= p.end)
            ranges.append(passage.token_range(start, end))
            owners.append(i)
    whole = [(p.first_token, p.first_token + len(p.tokens.ids)) for p in passages]
    return {
        "ranges": torch.tensor(ranges, dtype=torch.long).reshape(-1, 2),
        "passages": torch.tensor(owners, dtype=torch.long),
        "documents": torch.tensor([passages[i].document for i in owners], dtype=torch.long),
        "passage_ranges": torch.tensor(whole, dtype=torch.long).reshape(-1, 2),
    }


def _around(
    documents: Sequence[Document],
    units: Sequence[Sequence[Span]],
    passages: Sequence[Passage],
    question: str,
    config: CompressionConfig,
    embedder: Any,
) -> dict[str, Any]:
    """What does not come from the draft: retrieval scores, embeddings, words."""
    texts = [documents[d].text[start:end] for d, spans in enumerate(units) for start, end in spans]
    owners = [d for d, spans in enumerate(units) for _ in spans]
    given = [document.score for document in documents]
    retrieval = None
    if config.retrieval and all(score is not None for score in given) and len(set(given)) > 1:
        retrieval = torch.tensor([float(given[d] or 0.0) for d in owners])
    similarity = None
    if embedder is not None:
        from spec_rag.embedding import similarities

        titled = [
            f"{documents[d].title}. {text}" if documents[d].title else text
            for d, text in zip(owners, texts, strict=True)
        ]
        similarity = similarities(embedder, question, titled)
    links = title_links([document.title for document in documents], texts, owners) if config.links else None
    return {"retrieval": retrieval, "similarity": similarity, "links": links}
