"""What requests for answers look like, as OpenAI's API has them.

A field that this server does not act on is refused, so that nobody believes it does something; only those are let
through that say something about the request rather than ask for something. Extensions: `documents` and `spec_rag` of a
chat, `compress` of a message or a text part.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from spec_rag.serving.document_schemas import Body, Documents, Flag, Number


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("must be false")
    return value


Off = Annotated[Literal[False], BeforeValidator(_flag)]
_Zero = Annotated[float, Field(strict=True, ge=0, le=0)] | None


class TextPart(BaseModel):
    """A part of a message's content; `compress` marks a text that may be shortened."""

    model_config = ConfigDict(extra="allow")
    type: Literal["text", "refusal"]
    text: str | None = None
    compress: Flag | None = None


class Function(Body):
    """A function's call: its name, and its arguments as a JSON string."""

    name: str
    arguments: str


class Call(BaseModel):
    """A tool call of an earlier answer."""

    model_config = ConfigDict(extra="allow")
    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class Message(BaseModel):
    """A message; `compress` marks one whose text may be shortened, or (false) a tool's result that may not."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[str | TextPart] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    compress: Flag | None = None


class FunctionSchema(Body):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag | None = None


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionSchema


class ChosenFunction(Body):
    """A function by its name."""

    name: str


class ChosenTool(Body):
    """The tool that has to be called."""

    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(BaseModel):
    """A JSON schema with a name."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = {}
    description: str | None = None
    strict: Flag | None = None


class ResponseFormat(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Body):
    """What a stream tells besides text."""

    include_usage: Flag | None = None
    include_obfuscation: Off | None = None


class Sampling(Body):
    """How an answer is chosen, and what is said about the request."""

    model: str
    max_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    temperature: Annotated[float, Field(strict=True, ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(strict=True, ge=0, le=2**31)] | None = None
    min_p: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(strict=True, gt=0, le=10, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=1)] | None = None
    presence_penalty: _Zero = None
    frequency_penalty: _Zero = None
    logit_bias: Annotated[dict[str, Number], Field(max_length=0)] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None

    def options(self) -> dict[str, Any]:
        """The options of generation that were given."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")
        return {name: getattr(self, name) for name in names if getattr(self, name) not in (None, [])}


class ChatRequest(Sampling):
    """A chat to be gone on with."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: Flag | None = None
    response_format: ResponseFormat | None = None
    logprobs: Off | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=0)] | None = None
    store: Flag | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    documents: Documents | None = None
    spec_rag: dict[str, Any] | None = None


Token = Annotated[int, Field(strict=True, ge=0, lt=2**31)]


class CompletionRequest(Sampling):
    """A text, or several, to be gone on with; also as token ids."""

    prompt: str | Annotated[list[str] | list[Token] | list[list[Token]], Field(min_length=1)]
    echo: Off | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None
    best_of: Annotated[int, Field(strict=True, ge=1, le=1)] | None = None
    logprobs: Annotated[int, Field(strict=True, ge=0, le=0)] | None = None

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each as a text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)
