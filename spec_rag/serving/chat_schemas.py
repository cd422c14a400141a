"""Requests of /v1/chat/completions and /v1/completions.

A field whose function is not supported is refused by name, unless it is null. Descriptive fields are accepted and
ignored. Unknown fields of a message are ignored, because clients send answers back unchanged.
Extensions: `documents` and `spec_rag` of a chat, `compress` of a message or a text part, and the sampling fields of
vLLM (`top_k`, `min_p`, `repetition_penalty`, `min_tokens`, `stop_token_ids`, `chat_template_kwargs`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from spec_rag.serving.api_errors import ApiError
from spec_rag.serving.document_schemas import Body, Documents, Flag
from spec_rag.serving.json_edits import check_depth


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("must be false")
    return value


def _unset(value: Any) -> Any:
    """Several clients send -1 for "not set"."""
    return None if value == -1 and not isinstance(value, bool) else value


Off = Annotated[Literal[False], BeforeValidator(_flag)]
_Penalty = Annotated[float, Field(strict=True, ge=-2, le=2, allow_inf_nan=False)] | None
_Bias = Annotated[float, Field(strict=True, ge=-100, le=100, allow_inf_nan=False)]
Token = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
MAX_CHOICES = 4
# arguments of transformers' apply_chat_template, which a request may not set as template variables
_RESERVED = frozenset(
    {"conversation", "messages", "tools", "documents", "chat_template", "tokenize", "padding", "truncation"}
    | {"max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"}
    | {"add_generation_prompt", "continue_final_message", "self"}
)


def _readable(value: Any) -> Any:
    if isinstance(value, str) and value in ("output_text", "input_text"):
        return "text"
    if isinstance(value, str) and value not in ("text", "refusal"):
        raise ValueError(f"a part of type {value!r:.80} is not supported: this server reads text only")
    return value


class TextPart(BaseModel):
    """A content part; `compress` allows compressing its text."""

    model_config = ConfigDict(extra="allow")
    type: Annotated[Literal["text", "refusal"], BeforeValidator(_readable)]
    text: str | None = None
    compress: Flag | None = None


def _arguments(value: Any) -> Any:
    """Accept "" and null for a call without arguments."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "{}"
    if isinstance(value, str):
        try:
            check_depth(value.encode("utf-8", "replace"))
        except ApiError as error:
            raise ValueError("are nested too deeply") from error
    return value


class Function(BaseModel):
    """Name and JSON arguments of a function call."""

    model_config = ConfigDict(extra="ignore")
    name: str
    arguments: Annotated[str, BeforeValidator(_arguments)] = "{}"


class Call(BaseModel):
    """A tool call of an earlier answer."""

    model_config = ConfigDict(extra="ignore")
    id: str | None = None
    type: Annotated[Literal["function"], BeforeValidator(lambda value: "function" if value is None else value)] = (
        "function"
    )
    function: Function


def _no_audio(value: Any) -> Any:
    if value is not None:
        raise ValueError("this server reads text only")
    return value


class Message(BaseModel):
    """A message. `compress` allows compressing its text; false forbids it for a tool result.

    The deprecated `function_call` is read as the only tool call.
    """

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[str | TextPart] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    compress: Flag | None = None

    audio: Annotated[None, BeforeValidator(_no_audio)] = None
    function_call: Function | None = None

    @model_validator(mode="after")
    def _read_function_call(self) -> Self:
        if self.function_call is not None and not self.tool_calls:
            self.tool_calls = [Call(function=self.function_call)]
        self.function_call = None
        return self

    def may_be_shortened(self) -> bool:
        """Whether it is a tool result, or `compress` is set on it or one of its parts."""
        parts = self.content if isinstance(self.content, list) else ()
        marked = any(isinstance(part, TextPart) and part.compress for part in parts)
        return bool(self.compress) or marked or self.role in ("tool", "function")


class FunctionSchema(Body):
    """A callable function; parameters=null means no arguments."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag | None = None


class Tool(Body):
    """A callable tool."""

    type: Literal["function"]
    function: FunctionSchema


class ChosenFunction(Body):
    """A function by name."""

    name: str


class ChosenTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class AllowedTools(Body):
    """The subset of tools that may be called, and whether a call is required."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenTool], Field(min_length=1)]


class AllowedToolsChoice(Body):
    """A tool_choice that restricts the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JsonSchema(BaseModel):
    """A JSON schema with a name."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = {}
    description: str | None = None
    strict: Flag | None = None


class ResponseFormat(Body):
    """Format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Body):
    """Additional stream events."""

    include_usage: Flag | None = None
    include_obfuscation: Off | None = None


class Sampling(Body):
    """Sampling options and metadata of a request."""

    model: str
    max_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    min_tokens: Annotated[int, Field(strict=True, ge=0)] | None = None
    temperature: Annotated[float, Field(strict=True, ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[Annotated[int, Field(strict=True, ge=0, le=2**31)] | None, BeforeValidator(_unset)] = None
    min_p: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None = None
    typical_p: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(strict=True, gt=0, le=10, allow_inf_nan=False)] | None = None
    presence_penalty: _Penalty = None
    frequency_penalty: _Penalty = None
    logit_bias: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], _Bias] | None = None
    seed: Annotated[Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None, BeforeValidator(_unset)] = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=64)] | None = None
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=MAX_CHOICES)] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, value: Any) -> Any:
        """Ignore null, also in unsupported fields."""
        if not isinstance(value, dict):
            return value
        return {name: entry for name, entry in value.items() if entry is not None or name in cls.model_fields}

    @property
    def choices(self) -> int:
        """Number of answers."""
        return self.n or 1

    def alternatives(self) -> int | None:
        """Number of alternatives per token for log-probabilities; None if not requested."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Keywords of `spec_rag.generate`. Neutral values are omitted, because they would enable sampling."""
        neutral = {"top_p": 1, "top_k": 0, "min_p": 0, "typical_p": 1, "repetition_penalty": 1, "min_tokens": 0}
        names = (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "typical_p",
            "repetition_penalty",
            "min_tokens",
            "seed",
            "stop",
        )
        options = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, [])}
        options = {name: value for name, value in options.items() if name not in neutral or value != neutral[name]}
        if self.temperature == 0:  # greedy
            for name in ("top_p", "top_k", "min_p", "typical_p"):
                options.pop(name, None)
        if "min_tokens" in options:
            options["min_new_tokens"] = options.pop("min_tokens")
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(self, name):
                options[name] = getattr(self, name)
        if biased := {token: bias for token, bias in (self.logit_bias or {}).items() if bias}:
            options["sequence_bias"] = [[[int(token)], float(bias)] for token, bias in sorted(biased.items())]
        if self.stop_token_ids:
            options["stop_token_ids"] = self.stop_token_ids
        if self.alternatives() is not None:
            options["logprobs"] = self.alternatives()
        return options


def _template_variables(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if name in _RESERVED or not name.isidentifier():
            raise ValueError(f"{name!r:.80} is not a variable that a request may give to the chat template")
    return value


class ChatRequest(Sampling):
    """Request of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | AllowedToolsChoice | None = None
    parallel_tool_calls: Flag | None = None
    response_format: ResponseFormat | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_template_variables)] | None = None
    modalities: list[Literal["text"]] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: Literal["none", "auto"] | None = None
    store: Flag | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    documents: Documents | None = None
    spec_rag: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs=true")
        return self

    def may_be_shortened(self) -> bool:
        """Whether the request has texts that may be compressed."""
        return bool(self.documents) or any(message.may_be_shortened() for message in self.messages)

    def template_variables(self) -> dict[str, Any]:
        """Chat template variables of the request."""
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return {**effort, **(self.chat_template_kwargs or {})}

    def offered(self) -> tuple[list[dict[str, Any]], Any]:
        """The allowed tools and the tool choice, as arguments of `ToolChoice.of`.

        Raises:
            ValueError: an allowed tool is not among the request's.
        """
        tools = [tool.model_dump(exclude_none=True) for tool in self.tools or []]
        if not isinstance(self.tool_choice, AllowedToolsChoice):
            chosen = self.tool_choice
            return tools, chosen.model_dump() if isinstance(chosen, ChosenTool) else chosen
        allowed = {tool.function.name for tool in self.tool_choice.allowed_tools.tools}
        if missing := sorted(allowed - {tool["function"]["name"] for tool in tools}):
            raise ValueError(f"tool_choice: {missing[0]!r:.80} is not among the tools")
        mode = self.tool_choice.allowed_tools.mode
        return [tool for tool in tools if tool["function"]["name"] in allowed], mode

    def alternatives(self) -> int | None:
        """Number of alternatives per token for log-probabilities; None if not requested."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Sampling):
    """Request of /v1/completions: one or several prompts as text or token ids."""

    prompt: str | Annotated[list[str] | list[Token] | list[list[Token]], Field(min_length=1)]
    echo: Off | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None
    best_of: Annotated[int, Field(strict=True, ge=1, le=1)] | None = None
    logprobs: Annotated[int, Field(strict=True, ge=0, le=5)] | None = None

    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    def alternatives(self) -> int | None:
        """Number of alternatives per token for log-probabilities; None if not requested."""
        return self.logprobs
