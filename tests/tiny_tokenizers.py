"""A small tokenizer of each kind that models come with, without a download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CONTROL = ["<s>", "</s>", "<|im_end|>", "<|im_start|>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
PIECES = [
    "▁",
    "▁▁",
    "▁▁▁▁",
    "▁the",
    "▁a",
    "key",
    ":",
    ".",
    ",",
    "'",
    "▁'",
    "s",
    "n't",
    "▁n",
    "▁.",
    "\n",
    "▁run",
    "€",
    "é",
]


def _fast(backend: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_end|>", "<|im_start|>"],
        **options,
    )


def byte_level(**options: Any) -> PreTrainedTokenizerFast:
    """GPT-2, Llama 3, Qwen: every token is a piece of UTF-8."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["Ġthe", "Ġa", "ĠĠ", "Ċ", "Ġ.", "Ġ'", "âĤ", "key", ":"]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys([*CONTROL, *words, *letters]))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _fast(backend, **options)


def sentencepiece() -> PreTrainedTokenizerFast:
    """Llama 2, Mistral, Phi-3: a leading space is added and stripped, unknown characters are bytes."""
    vocabulary = {t: i for i, t in enumerate(["<unk>", *CONTROL, *BYTES, *PIECES])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    return _fast(backend, unk_token="<unk>")


def gemma() -> PreTrainedTokenizerFast:
    """Gemma: bytes as above, no leading space."""
    tokenizer = sentencepiece()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def metaspace() -> PreTrainedTokenizerFast:
    """T5, XLNet: a Unigram model with words that begin in a mark."""
    backend = Tokenizer(models.Unigram([(t, -1.0) for t in ["<unk>", *CONTROL, *PIECES]], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return _fast(backend, unk_token="<unk>")


def word_piece(cleanup: bool = True, **options: Any) -> PreTrainedTokenizerFast:
    """BERT: words, and pieces that continue them."""
    words = ["the", "##re", "##s", "n", "'", "t", "'s", "##t", ".", ",", "!", "don", "n't", "m", "'ve", "key", ":"]
    vocabulary = {t: i for i, t in enumerate(["[UNK]", *CONTROL, *words])}
    backend = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece(cleanup=cleanup)
    return _fast(backend, unk_token="[UNK]", **options)


def suffixed() -> PreTrainedTokenizerFast:
    """CLIP and the first GPT: words end in a mark."""
    vocabulary = {t: i for i, t in enumerate([*CONTROL, "the</w>", "th", "e</w>", "key</w>", "a", ".</w>", "s"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], end_of_word_suffix="</w>"))
    backend.decoder = decoders.BPEDecoder()
    return _fast(backend)


def rewriting() -> PreTrainedTokenizerFast:
    """A decoder that rewrites what has been joined, so no text is final before the last token."""
    tokenizer = gemma()
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.Fuse(),
            decoders.Replace(Regex("the +a"), "an"),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def clean_up_bpe() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose spaces before punctuation are taken away."""
    forced = {"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True}
    return byte_level(clean_up_tokenization_spaces=True, **forced)


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte level": byte_level,
    "sentencepiece": sentencepiece,
    "gemma": gemma,
    "metaspace": metaspace,
    "word piece": word_piece,
    "word piece, cleaned": lambda: word_piece(cleanup=False, clean_up_tokenization_spaces=True),
    "suffixed": suffixed,
    "rewriting": rewriting,
    "byte level, cleaned": clean_up_bpe,
}
