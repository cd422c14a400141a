"""A target with SpecPC, SpecKV or both as a model of lm-evaluation-harness: names are translated, and nothing else."""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from spec_rag import ModelPair, SpecKVConfig, SpecPCConfig, generate
from spec_rag.errors import ConfigError
from spec_rag.generation.answer_likelihood import answer_likelihood
from spec_rag.generation.end_tokens import answer_ends
from spec_rag.options.loading import DEFAULT_DRAFT
from spec_rag.text.prompts import chat_text
from spec_rag.text.tokenization import template_ids

_MOST_NEW_TOKENS = 256


@register_model("spec-rag")
class SpecRagLM(TemplateLM):  # type: ignore[misc]
    """Answers and likelihoods of a target that reads compressed prompts, or decodes from a pruned cache, or both.

    Args:
        target: name or folder of the model that is evaluated.
        draft: of the model that reads first.
        kv_capacity: key-value pairs that each head keeps of a prompt (SpecKV); None keeps all.
        prompt_capacity: prompt tokens that the target reads (SpecPC); None reads all.
        pair: loaded models, in place of target and draft.
        speckv: config, in place of `kv_capacity`.
        specpc: config, in place of `prompt_capacity`.
        max_gen_toks: tokens of an answer, where a task does not say.
        batch_size: of the harness, and not used: requests are answered one by one.
        max_batch_size: the same.
        device: where the models are loaded.
    """

    def __init__(
        self,
        target: str = DEFAULT_DRAFT,
        draft: str = DEFAULT_DRAFT,
        kv_capacity: int | None = None,
        prompt_capacity: int | None = None,
        *,
        pair: ModelPair | None = None,
        speckv: SpecKVConfig | None = None,
        specpc: SpecPCConfig | None = None,
        max_gen_toks: int = _MOST_NEW_TOKENS,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        options = {"device": device} if device else None
        self.pair = pair or ModelPair.load(draft, target, draft_options=options, target_options=options)
        self.speckv = speckv or (SpecKVConfig(max_capacity_prompt=kv_capacity) if kv_capacity else None)
        self.specpc = specpc or (SpecPCConfig(max_capacity_prompt=prompt_capacity) if prompt_capacity else None)
        self.max_gen_toks = max_gen_toks
        self.tokenizer = self.pair.require_tokenizer()

    @property
    def eot_token_id(self) -> int:
        """The token that ends an answer."""
        return answer_ends(self.pair)[0]

    @property
    def tokenizer_name(self) -> str:
        """For the harness to tell caches of requests apart."""
        return str(self.pair.target_name).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a prompt of the harness, in which control tokens of a chat template are meant as such."""
        return template_ids(self.tokenizer, string, add_special_tokens=bool(add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as the target's template writes it; a system text that it would drop is in the user's turn."""
        return chat_text(self.tokenizer, chat_history, opens_answer=add_generation_prompt)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        found = []
        for asked, context, continuation in tqdm(requests, disable=disable_tqdm):
            if continuation:
                told = answer_likelihood(self.pair, context, continuation, self.specpc, self.speckv)
                found.append((told.log_likelihood, told.is_greedy))
            else:  # a choice without text, which the harness hands on: nothing is written, with certainty
                found.append((0.0, True))
            self.cache_hook.add_partial("loglikelihood", asked, found[-1])
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Refused: a text without a prompt leaves nothing to compress.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("perplexity of a text has no prompt that could be compressed: take the model 'hf' for it.")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers that end before one of the request's strings."""
        found = []
        for request in tqdm(requests, disable=disable_tqdm):
            context, given = request.args
            options = dict(given)
            until = options.pop("until", None) or []
            stop = [until] if isinstance(until, str) else [text for text in until if text]
            most = options.pop("max_gen_toks", None) or options.pop("max_new_tokens", None) or self.max_gen_toks
            if not options.get("do_sample"):
                options = {name: value for name, value in options.items() if name not in ("do_sample", "temperature")}
            answer = generate(
                self.pair,
                self.tok_encode(context),
                self.specpc,
                self.speckv,
                max_new_tokens=most,
                **({"stop": stop} if stop else {}),
                **options,
            )
            found.append(answer.text)
            self.cache_hook.add_partial("generate_until", request.args, answer.text)
        return found
