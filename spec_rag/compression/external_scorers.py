"""What a scorer of the user's own says about the units: rerankers, late interaction, context pruners, functions.

A scorer is told by the method that it has. Those that read a question and a text are asked about each unit; those that
put documents into an order are asked about whole documents, whose units then share a score. Only the order of scores
counts, so their scale does not matter. No package of a scorer is imported unless one is given.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from spec_rag.compression.finite_scores import document_name, finite_scores
from spec_rag.errors import ConfigError
from spec_rag.text.documents import Document, as_number, with_title

_MARK = "spec_rag_document"  # in the metadata, by which a document is known again
_KNOWN = (
    "a function (question, texts) -> scores, a CrossEncoder (predict), a LangChain BaseCrossEncoder (score) or "
    "document compressor (compress_documents), a LlamaIndex postprocessor (postprocess_nodes), a ColBERT model "
    "(rerank, or encode with is_query), a reranker (rank) or a context pruner (process)"
)


def scorer_scores(
    scorer: Any,
    question: str,
    unit_texts: Sequence[str],
    titles: Sequence[str | None],
    documents: Sequence[Document],
    owners: Sequence[int],
) -> Tensor:
    """One score per unit, higher is better; what a scorer leaves out comes last.

    Args:
        scorer: any of the kinds in docs/scorers.md.
        question: what is asked.
        unit_texts: of all units.
        titles: of each unit's document, read before its text.
        documents: whole.
        owners: the document of each unit.

    Returns:
        float64 [units]. Scores mean nothing beside their order; equal ones are equally good. One that is nan or inf
        takes the median of the others, -inf comes last, with one warning.

    Raises:
        ConfigError: it is no scorer, it does not return one score per text, or no score is a number.
    """
    if not unit_texts:
        return torch.zeros(0, dtype=torch.float64)
    titled = [with_title(title, text) for title, text in zip(titles, unit_texts, strict=True)]
    for method, by_document in _BY_DOCUMENT.items():
        if hasattr(scorer, method):
            scores = _checked(scorer, by_document(scorer, question, documents), len(documents))
            return _finite(scorer, scores, documents, range(len(documents)))[torch.tensor(owners)]
    if hasattr(scorer, "process"):
        return _pruner(scorer, question, unit_texts, documents, owners)
    ask = next((ask for fits, ask in _BY_TEXT if fits(scorer)), None)
    if ask is None:
        raise ConfigError(f"scorer of type {type(scorer).__name__}: give {_KNOWN}.")
    return _finite(scorer, _checked(scorer, ask(scorer, question, titled), len(titled)), documents, owners)


def _name(scorer: Any) -> str:
    return scorer.__name__ if inspect.isfunction(scorer) else type(scorer).__name__


def _finite(scorer: Any, scores: Tensor, documents: Sequence[Document], owners: Sequence[int]) -> Tensor:
    """The scores without what is not finite.

    Args:
        scores: float64 [n].
        owners: the document of each score.

    Raises:
        ConfigError: none is finite, and one is nan.
    """
    if not bool(scores.isfinite().any()):
        if bool(scores.isnan().any()):
            raise ConfigError(f"scorer={_name(scorer)} returned no score that is a finite number.")
        return scores.sign()  # infinities alone still have an order
    found = finite_scores(
        scores, source=f"scorer={_name(scorer)}", name=lambda i: document_name(documents, owners[i]), below_lowest=1.0
    )
    assert found is not None
    return found


def _checked(scorer: Any, scores: Any, count: int) -> Tensor:
    """The scores as float64 [count]; None counts as nan."""
    name = _name(scorer)
    try:
        if isinstance(scores, Tensor):
            found = scores.detach().to("cpu", torch.float64)
        else:
            listed = scores.tolist() if hasattr(scores, "tolist") else list(scores)
            found = torch.tensor([one if isinstance(one, list) else _float(one) for one in listed], dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"scorer={name} returned {scores!r:.80}: it must return one number for each text.") from error
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.shape != (count,):
        shape = " x ".join(map(str, found.shape)) or "one number"
        raise ConfigError(f"scorer={name} returned {shape} for {count} texts: it must return one number for each.")
    return found


def _float(value: Any) -> float:
    if value is None:
        return math.nan
    return as_number(value) if isinstance(value, int) and not isinstance(value, bool) else float(value)


def _in_order(results: Sequence[tuple[int, Any]], count: int) -> list[float]:
    """Scores of documents from what a reranker returned: by its own scores if each has one, else by their order."""
    scores = [as_number(score) for _, score in results]
    finite = [score for score in scores if math.isfinite(score)]
    if not finite or any(score is None for _, score in results):
        finite = scores = [float(-rank) for rank in range(len(results))]
    found = [min(finite, default=0.0) - 1.0] * count  # those that were not returned
    for (document, _), score in reversed(list(zip(results, scores, strict=True))):
        found[document] = score
    return found


def _langchain_compressor(scorer: Any, question: str, documents: Sequence[Document]) -> list[float]:
    make = import_module("langchain_core.documents").Document
    # a score that the retriever gave must not be taken for the compressor's
    told = [{name: value for name, value in one.metadata.items() if name != "relevance_score"} for one in documents]
    given = [
        make(page_content=one.text, metadata={**metadata, _MARK: i})
        for i, (one, metadata) in enumerate(zip(documents, told, strict=True))
    ]
    found = scorer.compress_documents(given, question)
    return _in_order(
        [
            (_document_of(one.metadata, one.page_content, documents), one.metadata.get("relevance_score"))
            for one in found
        ],
        len(documents),
    )


def _llama_index_postprocessor(scorer: Any, question: str, documents: Sequence[Document]) -> list[float]:
    schema = import_module("llama_index.core.schema")
    given = [
        schema.NodeWithScore(
            node=schema.TextNode(
                text=one.text,
                metadata={**one.metadata, _MARK: i},
                excluded_llm_metadata_keys=[_MARK, "spec_pc"],
                excluded_embed_metadata_keys=[_MARK, "spec_pc"],
            )
        )
        for i, one in enumerate(documents)
    ]
    found = scorer.postprocess_nodes(given, query_str=question)
    return _in_order(
        [(_document_of(one.metadata, one.get_content(), documents), one.score) for one in found], len(documents)
    )


def _document_of(metadata: Mapping[str, Any], text: str, documents: Sequence[Document]) -> int:
    """Which document a result is: by its mark, or else by its text."""
    if _MARK in metadata:
        return int(metadata[_MARK])
    same = (i for i, document in enumerate(documents) if document.text == text)
    found = next(same, None)
    if found is None:
        raise ConfigError(
            f"scorer returned a document that it was not given, {text!r:.60}: it must keep texts or metadata."
        )
    return found


def _pruner(
    scorer: Any, question: str, unit_texts: Sequence[str], documents: Sequence[Document], owners: Sequence[int]
) -> Tensor:
    """Units that a context pruner keeps come before those that it drops; among each, its document scores decide."""
    pruned, relevance = [], []
    for document in documents:
        found = scorer.process(question, document.text) if document.text.strip() else {"pruned_context": ""}
        if not isinstance(found, Mapping) or "pruned_context" not in found:
            raise ConfigError(
                f"scorer={type(scorer).__name__} returned {found!r:.80}: process(question, context) must return a dict "
                "with 'pruned_context', and 'reranking_score' if it has one."
            )
        pruned.append(" ".join(_one(found["pruned_context"]).split()))
        relevance.append(_one(found.get("reranking_score") or 0.0))
    checked = _checked(scorer, relevance, len(documents))
    ranks = _finite(scorer, checked, documents, range(len(documents))).sigmoid()
    kept = [_stands_in(text, pruned[d]) for text, d in zip(unit_texts, owners, strict=True)]
    return torch.tensor(kept).float() + ranks[torch.tensor(owners)] / 2


def _one(value: Any) -> Any:
    """A pruner that was asked about one text may answer with a list of one."""
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return value


def _stands_in(unit: str, pruned: str) -> bool:
    """Whether a unit, or one half of it where the pruner cuts sentences elsewhere, is left."""
    words = unit.split()
    halves = (words[: len(words) // 2], words[len(words) // 2 :]) if len(words) > 7 else ()
    return any(" ".join(part) in pruned for part in (words, *halves))


def _colbert(scorer: Any, question: str, texts: Sequence[str]) -> list[float]:
    """MaxSim: for each token of the question its best match in the text, summed (ColBERT)."""
    asked = torch.as_tensor(scorer.encode([question], is_query=True)[0]).float().cpu()
    read = [torch.as_tensor(one).float().cpu() for one in scorer.encode(list(texts), is_query=False)]
    return [float((asked @ one.T).amax(1).sum()) for one in read]


def _rerank(scorer: Any, question: str, texts: Sequence[str]) -> list[float]:
    found = scorer.rerank(query=question, documents=list(texts), k=len(texts))
    return _in_order([(int(one["result_index"]), one["score"]) for one in found], len(texts))


def _rank(scorer: Any, question: str, texts: Sequence[str]) -> list[float]:
    found = scorer.rank(query=question, docs=list(texts), doc_ids=list(range(len(texts))))
    results = getattr(found, "results", found)
    return _in_order([(int(getattr(one, "document", one).doc_id), one.score) for one in results], len(texts))


def _takes(method: str, *names: str) -> Callable[[Any], bool]:
    """Whether a scorer has a method with these parameters."""

    def fits(scorer: Any) -> bool:
        function = getattr(scorer, method, None)
        if not callable(function):
            return False
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            return True
        return set(names) <= set(parameters)

    return fits


def _pairs(question: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(question, text) for text in texts]


_BY_DOCUMENT = {"compress_documents": _langchain_compressor, "postprocess_nodes": _llama_index_postprocessor}
_BY_TEXT: Sequence[tuple[Callable[[Any], bool], Callable[[Any, str, Sequence[str]], Any]]] = (
    (_takes("rerank", "query", "documents", "k"), _rerank),
    (_takes("predict"), lambda scorer, question, texts: scorer.predict(_pairs(question, texts))),
    (_takes("encode", "is_query"), _colbert),
    (_takes("rank", "query", "docs", "doc_ids"), _rank),
    (_takes("score"), lambda scorer, question, texts: scorer.score(_pairs(question, texts))),
    (callable, lambda scorer, question, texts: scorer(question, list(texts))),
)
