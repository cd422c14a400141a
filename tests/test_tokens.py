"""From prompts to ids."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import tiny_tokenizer
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from spec_rag.errors import ConfigError
from spec_rag.models.model_pair import same_vocabulary
from spec_rag.text.marks import marked, pieces_ids
from spec_rag.text.prompts import prompt_ids
from spec_rag.text.tokenization import control_tokens, encodable, encoded_text, left_pad, template_ids, text_ids

CHAT = [{"role": "user", "content": "Say it."}]


def test_threads_that_share_a_tokenizer_do_not_change_each_others_ids() -> None:
    tokenizer = tiny_tokenizer()
    chat, text = prompt_ids(tokenizer, CHAT).tolist(), text_ids(tokenizer, "a <|im_end|> b")
    assert 1 in chat
    assert 1 not in text

    def work(i: int) -> bool:
        if i % 2:
            return prompt_ids(tokenizer, CHAT).tolist() == chat
        return text_ids(tokenizer, "a <|im_end|> b") == text

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(2000)))


def test_a_special_token_in_a_message_is_text_and_the_rest_of_the_turn_is_as_ever() -> None:
    tokenizer = tiny_tokenizer()
    ids = prompt_ids(tokenizer, [{"role": "user", "content": "x<|im_end|>y"}]).tolist()
    assert ids.count(1) == 1
    assert tokenizer.decode(ids) == "<|im_start|>user\nx<|im_end|>y<|im_end|>\n<|im_start|>assistant\n"


def test_left_padding_puts_every_row_at_the_right() -> None:
    ids, mask = left_pad([torch.tensor([5]), torch.tensor([6, 7, 8])], fill=9)
    assert ids.tolist() == [[9, 9, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


def with_added_tokens() -> PreTrainedTokenizerFast:
    """Added tokens as fine-tuned models have them: control tokens that are not flagged, and words behind them."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<tool_call>", "[INST]", "harbour", "    "])
    return tokenizer


@pytest.mark.parametrize("spelled", ["<|im_end|>", "<|im_start|>", "<pad>", "<tool_call>", "[INST]"])
def test_control_tokens_are_text_in_a_text_and_tokens_in_a_template(spelled: str) -> None:
    tokenizer = with_added_tokens()
    token = tokenizer.convert_tokens_to_ids(spelled)
    assert spelled in control_tokens(tokenizer)
    text = f"Say {spelled} now"
    assert token not in text_ids(tokenizer, text)
    assert token not in encoded_text(tokenizer, text).ids
    assert tokenizer.decode(text_ids(tokenizer, text)) == text
    assert template_ids(tokenizer, text).count(token) == 1


def test_added_words_keep_their_ids_behind_control_tokens() -> None:
    tokenizer = with_added_tokens()
    assert not {"harbour", "    "} & control_tokens(tokenizer)
    for word in ("harbour", "    "):
        (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert text_ids(tokenizer, word) == template_ids(tokenizer, word) == [token]


def test_tokens_that_are_added_later_are_known() -> None:
    tokenizer = tiny_tokenizer()
    assert len(text_ids(tokenizer, "harbour")) == 7
    tokenizer.add_tokens(["harbour", "<mark>"])
    assert len(text_ids(tokenizer, "harbour")) == 1
    assert len(text_ids(tokenizer, "<mark>")) == 6


@pytest.mark.parametrize("switch", [False, True])
def test_the_tokenizers_own_switch_is_neither_asked_nor_touched(switch: bool) -> None:
    """Threads share it, so that touching it for one of them would let control tokens come alive for another."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.encode_special_tokens = switch
    assert 1 not in text_ids(tokenizer, "<|im_end|>")
    assert tokenizer.backend_tokenizer.encode_special_tokens is switch
    assert template_ids(tokenizer, "<|im_end|>") == [1]
    assert prompt_ids(tokenizer, CHAT).tolist().count(1) == 1
    assert tokenizer.backend_tokenizer.encode_special_tokens is switch


def test_threads_with_two_tokenizers_of_one_vocabulary_never_see_control_tokens_come_alive() -> None:
    draft, target = tiny_tokenizer(), tiny_tokenizer()
    text = text_ids(target, "a <|im_end|> b")
    template = template_ids(target, "a <|im_end|> b")

    def work(i: int) -> bool:
        if i % 3 == 0:
            return same_vocabulary(draft, target)
        tokenizer = (draft, target)[i % 2]
        return text_ids(tokenizer, "a <|im_end|> b") == text and template_ids(tokenizer, "a <|im_end|> b") == template

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(3000)))


def test_offsets_say_where_each_token_stands_also_beside_a_lone_surrogate() -> None:
    encoded = encoded_text(tiny_tokenizer(), "a\ud800b")
    assert [encoded.offsets[0], encoded.offsets[-1]] == [(0, 1), (2, 3)]
    assert text_ids(tiny_tokenizer(), "a\ud800b") == text_ids(tiny_tokenizer(), "a\ufffdb")
    assert encodable("a\ud800\udc00b") == "a\ufffd\ufffdb"
    assert encodable("naïve 😀") == "naïve 😀"


def test_an_opening_token_is_added_only_where_it_is_asked_for() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    assert text_ids(tokenizer, "ab")[0] != 0
    assert text_ids(tokenizer, "ab", add_special_tokens=True)[0] == 0
    assert template_ids(tokenizer, "ab", add_special_tokens=True)[0] == 0


def test_a_tokenizer_without_offsets_is_refused_where_they_are_needed() -> None:
    class Slow:
        backend_tokenizer = None

        def __call__(self, text: str, **settings: object) -> dict[str, list[int]]:
            return {"input_ids": [len(text), int(bool(settings.get("split_special_tokens")))]}

    slow = Slow()
    assert text_ids(slow, "abc") == [3, 1]  # type: ignore[arg-type]
    assert template_ids(slow, "abc") == [3, 0]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Slow gives no character offsets"):
        encoded_text(slow, "abc")  # type: ignore[arg-type]


def test_the_first_piece_of_a_marked_text_begins_the_sequence() -> None:
    tokenizer = tiny_tokenizer()
    begin = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)]
    )
    text = marked(tokenizer, "x<|im_end|>y")
    assert pieces_ids(tokenizer, text, add_special_tokens=True) == [begin, *pieces_ids(tokenizer, text)]
