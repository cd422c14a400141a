"""Options of generation that the LLMs of both frameworks share; importing it loads neither torch nor transformers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from spec_rag.options.definitions import option


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class GenerationOptions(BaseModel):
    """Fields of an LLM, each with type, default, bounds, description and level."""

    max_tokens: Annotated[int, option("Maximum tokens of an answer; `max_new_tokens` is the same.", level="common")] = (
        256
    )
    temperature: Annotated[
        float | None,
        option(
            "Above 0 samples; 0 is greedy, and so is `None` unless `top_p` or `top_k` is given.",
            level="common",
        ),
    ] = None
    top_p: Annotated[
        float | None, option("Nucleus sampling: share of the probability, above 0 and at most 1.", level="common")
    ] = None
    top_k: Annotated[int | None, option("Sample from this number of most probable tokens.")] = None
    repetition_penalty: Annotated[float | None, option("Above 1 discourages repetition.")] = None
    seed: Annotated[int | None, option("Makes sampling repeatable.")] = None
    stop: Annotated[
        list[str] | str | None,
        BeforeValidator(_as_list),
        option("The answer ends before the first of these strings.", level="common"),
    ] = None
    timeout: Annotated[
        float | None,
        option(
            "Seconds from the request to the last token, including the wait for the models; then `TimeoutError`.", gt=0
        ),
    ] = None
    max_retries: Annotated[int, option("Number of retries after a GPU ran out of memory.", ge=0)] = 2
    generation_kwargs: Annotated[
        dict[str, Any],
        option(
            "Further options of `generate`: `prefill_chunk_size`, `schema`, and the fields of transformers' "
            "`GenerationConfig`."
        ),
    ] = {}  # pydantic copies it
