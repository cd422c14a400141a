"""A target with SpecPC, SpecKV or both as a model of lm-evaluation-harness."""

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

_MAX_NEW_TOKENS = 256


@register_model("spec-rag")
class SpecRagLM(TemplateLM):  # type: ignore[misc]
    """Answers and likelihoods of a target with prompt compression, KV cache pruning, or both.

    Args:
        target: name or folder of the evaluated model.
        draft: name or folder of the draft.
        kv_capacity: KV pairs of the prompt per head (SpecKV); None keeps all.
        prompt_capacity: prompt tokens of the target (SpecPC); None keeps all.
        pair: loaded models instead of target and draft.
        speckv: config instead of `kv_capacity`.
        specpc: config instead of `prompt_capacity`.
        max_gen_toks: maximum tokens of an answer if the task has no limit.
        batch_size: accepted and ignored; requests are answered one by one.
        max_batch_size: accepted and ignored.
        device: device of both models.
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
        max_gen_toks: int = _MAX_NEW_TOKENS,
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
        """End token."""
        return answer_ends(self.pair)[0]

    @property
    def tokenizer_name(self) -> str:
        """Name in the harness' request cache."""
        return str(self.pair.target_name).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a prompt that may contain control tokens of the chat template."""
        return template_ids(self.tokenizer, string, add_special_tokens=bool(add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Text of a chat in the template; an unsupported system text moves to the user turn."""
        return chat_text(self.tokenizer, chat_history, opens_answer=add_generation_prompt)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        results = []
        for text, context, continuation in tqdm(requests, disable=disable_tqdm):
            if continuation:
                likelihood = answer_likelihood(self.pair, context, continuation, self.specpc, self.speckv)
                results.append((likelihood.log_likelihood, likelihood.is_greedy))
            else:  # an empty continuation has probability 1
                results.append((0.0, True))
            self.cache_hook.add_partial("loglikelihood", text, results[-1])
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Not supported: a text without a prompt cannot be compressed.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("Perplexity has no prompt that could be compressed: use the model 'hf'.")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, which end before a stop string of the request."""
        answers = []
        for request in tqdm(requests, disable=disable_tqdm):
            context, settings = request.args
            options = dict(settings)
            until = options.pop("until", None) or []
            stop = [until] if isinstance(until, str) else [text for text in until if text]
            limit = options.pop("max_gen_toks", None) or options.pop("max_new_tokens", None) or self.max_gen_toks
            if not options.get("do_sample"):
                options = {name: value for name, value in options.items() if name not in ("do_sample", "temperature")}
            answer = generate(
                self.pair,
                self.tok_encode(context),
                self.specpc,
                self.speckv,
                max_new_tokens=limit,
                **({"stop": stop} if stop else {}),
                **options,
            )
            answers.append(answer.text)
            self.cache_hook.add_partial("generate_until", request.args, answer.text)
        return answers
