"""Tiny models that write what a test wants, and what watches them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from integrations.tiny_llamas import byte_tokenizer, tiny_llama
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from transformers import LlamaForCausalLM, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerFast

from spec_rag.models.model_pair import ModelPair

_TURNS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if loop.index0 > 0 and m['role'] == messages[loop.index0 - 1]['role'] and m['role'] != 'tool' %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}<tool_call>\n{{ c['function'] | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN_TEMPLATE = _TURNS.replace(_TURNS[_TURNS.index("{% for c in") : _TURNS.index("<|im_end|>")], "")
_TOOLS = "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
TOOL_TEMPLATE = _TURNS.replace("{{ bos_token }}", "{{ bos_token }}" + _TOOLS)


class _Writes(LogitsProcessor):
    """Lets the model write the given tokens, whatever it would have written."""

    def __init__(self, ids: list[int], prompt_tokens: int) -> None:
        self.ids = ids
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        at = min(input_ids.shape[1] - self.prompt_tokens, len(self.ids) - 1)
        written = torch.full_like(scores, -torch.inf)
        written[:, self.ids[at]] = 0.0
        return written


class TinyLlama(LlamaForCausalLM):
    """Random weights; it writes small letters and spaces, or, where `script` is set, what that makes of the prompt."""

    script: Callable[[str], str] | None = None
    constrained = False
    tokenizer: PreTrainedTokenizerFast

    def generate(self, input_ids: torch.Tensor, **arguments: Any) -> Any:
        if self.script is not None:
            text = self.script(self.tokenizer.decode(input_ids[0]))
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            writes = _Writes([*ids, self.tokenizer.eos_token_id], input_ids.shape[1])
            holding = arguments.get("logits_processor", ()) if self.constrained else ()
            arguments["logits_processor"] = LogitsProcessorList([writes, *holding])
        return super().generate(input_ids=input_ids, **arguments)


def scriptable_llama(seed: int, tokenizer: PreTrainedTokenizerFast) -> TinyLlama:
    model = tiny_llama(TinyLlama, seed, tokenizer)
    model.tokenizer = tokenizer
    return model


def tiny_pair(template: str | None = PLAIN_TEMPLATE, **names: str) -> ModelPair:
    tokenizer = byte_tokenizer(template)
    names = {"draft_name": "tiny-draft", "target_name": "tiny-target", **names}
    return ModelPair(
        draft=scriptable_llama(1, tokenizer), target=scriptable_llama(2, tokenizer), tokenizer=tokenizer, **names
    )


def save_tiny_models(folder: Path, template: str = TOOL_TEMPLATE) -> Path:
    """Folders tiny-target, tiny-other and tiny-draft with plain checkpoints."""
    tokenizer = byte_tokenizer(template)
    for seed, name in enumerate(("tiny-draft", "tiny-target", "tiny-other"), start=1):
        scriptable_llama(seed, tokenizer).save_pretrained(folder / name)
        config = json.loads((folder / name / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
        tokenizer.save_pretrained(folder / name)
    return folder


@contextmanager
def scripted(pair: ModelPair, script: str | Callable[[str], str], *, constrained: bool = False) -> Iterator[None]:
    """Inside the block the target writes that, or what the function makes of the prompt.

    With `constrained` it writes it as far as what its answer is held to allows.
    """
    pair.target.script = (lambda prompt: script) if isinstance(script, str) else script
    pair.target.constrained = constrained
    try:
        yield
    finally:
        pair.target.script, pair.target.constrained = None, False


ARGUMENTS = {
    "magic_function": {"input": 3},
    "magic_function_no_args": {},
    "get_weather": {"location": "San Francisco"},
    "greeting_generator": {"answer_style": "pirate"},
    "my_adder_tool": {"a": 3, "b": 4},
}


def obliging(prompt: str) -> str:
    """What a model that can call tools and write JSON answers to the prompts of langchain-tests."""
    opened = prompt.rpartition("<|im_start|>assistant\n")[2]
    tools = re.findall(r'"function": \{.*?"name": "(\w+)"|"name": "(\w+)", "description"', prompt)
    names = [first or second for first, second in tools]
    forced = re.findall(r'"name": "(\w+)", "arguments": $', opened)
    name = forced[0] if forced else (names or [""])[0]
    unicode_name = "こんにちは株式会社" if "こんにちは" in prompt else "你好啊集团"
    arguments = ARGUMENTS.get(name, {"customer_name": unicode_name, "description": "A customer."})
    call = f'{{"name": "{name}", "arguments": {json.dumps(arguments, ensure_ascii=False)}}}\n</tool_call>'
    if opened:
        return ("<tool_call>\n" + call)[len(opened) :]
    if "JSON schema" in prompt:
        return '{"setup": "Why do cats purr?", "punchline": "They run on diesel."}'
    if names and "<|im_start|>tool" not in prompt:
        return "<tool_call>\n" + call
    return "It is sunny."


class Steps:
    """Counts the forward passes of a model, each at least so long."""

    def __init__(self, pair: ModelPair, seconds: float = 0.0) -> None:
        self.count = 0
        self.seconds = seconds
        self._hook = pair.target.register_forward_pre_hook(self._step)

    def _step(self, *_: Any) -> None:
        self.count += 1
        time.sleep(self.seconds)

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: Any) -> None:
        self._hook.remove()


class Watching(BaseCallbackHandler):
    """What LangChain's callbacks were told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.tokens: list[str] = []
        self.results: list[Any] = []
        self.started: list[str] = []
        self.errors: list[BaseException] = []

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.events.append((name, data))

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.results.append(response)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.started.append(kwargs.get("name", ""))


def documents() -> list[Document]:
    texts = [
        "The dome was opened in 1931. It is painted copper green. Visitors may not lean on the rail.",
        "The kitchen closes at nine. Soup is served on Mondays. The cook is called Ilse.",
        "The road is closed in March. Snow chains hang beside the gate. The mule was called Saffron.",
    ]
    return [
        Document(text, id=f"doc-{i}", metadata={"source": f"{i}.md", "page": i, "nested": {"row": [i]}})
        for i, text in enumerate(texts)
    ]
