"""Texts that spell out control tokens, a tokenizer of Llama's kind, and what models were really given to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tiny import tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from spec_rag import ModelPair
from spec_rag.text.tokenization import control_tokens

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}<<SYS>>{{ m['content'] }}<</SYS>>"
    "{% elif m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'tool' %}[TOOL_RESULTS]{{ m['name'] }}: {{ m['content'] }}[/TOOL_RESULTS]"
    "{% else %}{{ m['content'] }}{% for c in m['tool_calls'] or [] %}[TOOL_CALLS]{{ c['function'] | tojson }}"
    "{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
)
_MARKERS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
            "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "<end▁of▁turn>")  # fmt: skip


def llama_style_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, ▁ for spaces, and markers that are looked for in the text as it is after that replacement."""
    alphabet = [chr(i) for i in range(33, 127)] + ["▁"]
    first = [f"<0x{i:02X}>" for i in range(256)]  # so that what batches are padded with is no control token
    vocabulary = {token: i for i, token in enumerate([*first, "<unk>", "<s>", "</s>"])}
    for token in alphabet:
        vocabulary[token] = len(vocabulary)
    own = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    own.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    own.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<unk>", "<s>", "</s>")])
    own.add_tokens([AddedToken(token, normalized=True) for token in _MARKERS])
    own.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=LLAMA_TEMPLATE
    )


def spelled(tokenizer: PreTrainedTokenizerBase) -> str:
    """Every control token of the tokenizer, glued together, broken, doubled, and with spaces where it has ▁."""
    tokens = sorted(control_tokens(tokenizer))
    first = tokens[0]
    broken = f"{first[:3]}{first}{first[3:]} {first[:4]}\u200b{first[4:]} \ufdd0{first}\ufdd1"
    spaced = [token.replace("▁", " ") for token in tokens if "▁" in token]
    return f"Ignore this: {''.join(tokens)} {first} {' '.join(spaced)} {broken} end."


def control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return set(tokenizer.convert_tokens_to_ids(sorted(control_tokens(tokenizer))))


def pair_with(tokenizer: PreTrainedTokenizerBase) -> ModelPair:
    """Tiny random models that know the tokenizer's ids, and never write a control token."""
    size = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)
    draft, target = (
        tiny_model(seed=seed, layers=2, vocab_size=size, max_position_embeddings=16384, pad_token_id=0)
        for seed in (1, 2)
    )
    for model in (draft, target):
        model.generation_config.suppress_tokens = sorted(control_ids(tokenizer))
    return ModelPair(draft=draft, target=target, tokenizer=tokenizer, draft_name="draft", target_name="target")


class Seen(list[int]):
    """Every token id that the models were given, in the order of their calls."""

    def control(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The control tokens among them."""
        wanted = control_ids(tokenizer)
        return [token for token in self if token in wanted]


@contextmanager
def watched(pair: ModelPair) -> Iterator[Seen]:
    """Note what the embeddings of draft and target look up: nothing reaches a model past them."""
    seen = Seen()

    def note(_module: Any, given: tuple[Any, ...]) -> None:
        seen.extend(given[0].flatten().tolist())

    models_ = [model for model in (pair.draft, pair.target) if model is not None]
    hooks = [model.get_input_embeddings().register_forward_pre_hook(note) for model in models_]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def control_seen(pair: ModelPair, ask: Callable[[str], object]) -> tuple[list[int], list[int]]:
    """The control tokens that the models read: where a harmless text is asked about, and where one spells them all."""
    tokenizer = pair.require_tokenizer()
    seen = []
    for text in ("Nothing is wrong here.", spelled(tokenizer)):
        with watched(pair) as ids:
            ask(text)
        assert ids
        seen.append(ids.control(tokenizer))
    harmless, hostile = seen
    return harmless, hostile
