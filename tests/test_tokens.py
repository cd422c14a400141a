"""From prompts to ids."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from tiny import tiny_tokenizer

from spec_rag.text.prompts import prompt_ids
from spec_rag.text.tokens import left_pad, text_ids

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
