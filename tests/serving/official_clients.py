"""Asks a gateway with the official clients; run by an interpreter that has openai, anthropic and litellm.

It prints one JSON object: what each client read.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


def main(url: str, exchanges: dict[str, list[Any]]) -> dict[str, Any]:
    import anthropic
    import openai

    found: dict[str, Any] = {}
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
    other = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
    chat: dict[str, Any] = {"model": "big", "messages": exchanges["chat"]}
    found["chat"] = client.chat.completions.create(**chat).choices[0].message.content
    pieces = client.chat.completions.create(**chat, stream=True)
    found["chat stream"] = "".join(one.choices[0].delta.content or "" for one in pieces if one.choices)
    response: dict[str, Any] = {"model": "big", "input": exchanges["responses"]}
    found["responses"] = client.responses.create(**response).output_text
    with client.responses.stream(**response) as stream:
        found["responses stream"] = stream.get_final_response().output_text
    message: dict[str, Any] = {"model": "big", "max_tokens": 9, "messages": exchanges["messages"]}
    found["messages"] = "".join(one.text for one in other.messages.create(**message).content)
    with other.messages.stream(**message) as stream:
        found["messages stream"] = stream.get_final_text()
        found["messages end"] = stream.get_final_message().stop_reason
    found["litellm"] = asyncio.run(guarded(url, exchanges["chat"]))
    return found


async def guarded(url: str, messages: list[Any]) -> Any:
    """The texts after LiteLLM's own guardrail client has asked for them."""
    from litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api.generic_guardrail_api import GenericGuardrailAPI

    rail = GenericGuardrailAPI(api_base=f"{url}/beta/litellm_basic_guardrail_api", guardrail_name="spec-rag")
    texts = [one["content"] for one in messages if isinstance(one["content"], str)]
    inputs: Any = {"texts": texts, "structured_messages": messages}
    return (await rail.apply_guardrail(inputs, {}, "request"))["texts"]


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.stdin.read()))))
