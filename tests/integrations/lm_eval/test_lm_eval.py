"""lm-evaluation-harness runs tasks of local files on the package's models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from tiny import tiny_pair

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402
from lm_eval_spec_rag import SpecRagLM  # noqa: E402

from spec_rag import SpecKVConfig, SpecPCConfig, generate  # noqa: E402
from spec_rag.errors import ConfigError  # noqa: E402
from spec_rag.generation.answer_likelihood import answer_likelihood  # noqa: E402

TEXT = "Fenn bakes the bread in Tarn, and gulls wait at the pier for what is left of it. " * 3
TASKS = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: {kind}
doc_to_text: "{{{{text}}}}\\nQuestion: {{{{question}}}}\\nAnswer:"
doc_to_target: "{target}"
{rest}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"text": TEXT, "question": f"Who is {i}?", "choices": ["Fenn", "the gulls"], "label": 0} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    own = {
        "own_choice": ("multiple_choice", "{{label}}", 'doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}]'),
        "own_answer": (
            "generate_until",
            "Fenn",
            'generation_kwargs: {until: ["\\n"], max_gen_toks: 4}\nmetric_list: [{metric: exact_match}]',
        ),
    }
    for name, (kind, target, rest) in own.items():
        text = TASKS.format(name=name, file=tmp_path / "rows.jsonl", kind=kind, target=target, rest=rest)
        (tasks / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tasks


@pytest.mark.parametrize(
    ("speckv", "specpc"),
    [
        (None, None),
        (SpecKVConfig(max_capacity_prompt=64), None),
        (None, SpecPCConfig(max_capacity_prompt=96, starting_layer_index=0)),
    ],
    ids=["dense", "SpecKV", "SpecPC"],
)
def test_the_harness_runs_both_kinds_of_tasks(
    folder: Path, speckv: SpecKVConfig | None, specpc: SpecPCConfig | None
) -> None:
    from lm_eval.tasks import TaskManager

    model = SpecRagLM(pair=tiny_pair(), speckv=speckv, specpc=specpc)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(model, tasks=["own_choice", "own_answer"], task_manager=manager, bootstrap_iters=0)
    assert set(found["results"]) == {"own_choice", "own_answer"}
    assert 0 <= found["results"]["own_choice"]["acc,none"] <= 1
    samples = found["samples"]["own_answer"]
    prompt = samples[0]["arguments"][0][0] if isinstance(samples[0]["arguments"], list) else None
    pair = tiny_pair()
    ids = model.tok_encode(prompt or f"{TEXT}\nQuestion: Who is 0?\nAnswer:")
    written = generate(pair, ids, specpc, speckv, max_new_tokens=4, stop=["\n"]).text
    assert samples[0]["resps"][0][0] == written
    assert os.environ["HF_DATASETS_CACHE"].startswith(str(folder.parent))


def test_the_model_is_known_by_its_name() -> None:
    assert get_model("spec-rag") is SpecRagLM


def test_a_likelihood_is_the_dense_one_where_nothing_is_pruned() -> None:
    pair = tiny_pair()
    model = SpecRagLM(pair=pair)
    context, continuation = model.tok_encode(TEXT), model.tok_encode(" Fenn")
    with torch.no_grad():
        logits = pair.target(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
    own = sum(logits[len(context) - 1 + i, token] for i, token in enumerate(continuation))
    assert answer_likelihood(pair, context, continuation).log_likelihood == pytest.approx(float(own), abs=1e-3)
    whole = SpecKVConfig(max_capacity_prompt=len(context) - 1, window_size=8, kernel_size=5, lookahead="none")
    kept = answer_likelihood(pair, context, continuation, speckv=whole)
    assert kept.log_likelihood == pytest.approx(float(own), abs=1e-3)
    few = answer_likelihood(pair, context, continuation, speckv=SpecKVConfig(max_capacity_prompt=32))
    assert few.log_likelihood != pytest.approx(float(own), abs=1e-3)


def test_a_choice_without_text_scores_0_and_the_others_go_on() -> None:
    model = SpecRagLM(pair=tiny_pair())
    requests = [
        Instance("loglikelihood", {}, (TEXT.strip(), choice), i) for i, choice in enumerate([" Fenn", "", " Oda"])
    ]
    first, empty, last = model.loglikelihood(requests, disable_tqdm=True)
    assert empty == (0.0, True)
    assert first[0] < 0
    assert last[0] < 0


def test_what_decoding_writes_is_greedy() -> None:
    pair = tiny_pair()
    for speckv in (None, SpecKVConfig(max_capacity_prompt=48, lookahead="none")):
        context = SpecRagLM(pair=pair).tok_encode(TEXT)
        written = generate(pair, context, speckv=speckv, max_new_tokens=5).output_ids
        assert answer_likelihood(pair, context, written, speckv=speckv).is_greedy
        other = [*written[:-1], (written[-1] + 1) % 300]
        assert not answer_likelihood(pair, context, other, speckv=speckv).is_greedy
    with pytest.raises(ConfigError, match="answer_ids is empty"):
        answer_likelihood(pair, context, [])


def test_perplexity_is_refused_and_an_answer_ends_before_its_string() -> None:
    model = SpecRagLM(pair=tiny_pair())
    with pytest.raises(ConfigError, match="no prompt that could be compressed"):
        model.loglikelihood_rolling([])
    request = Instance("generate_until", {}, (TEXT, {"until": [], "max_gen_toks": 6, "do_sample": False}), 0)
    whole = model.generate_until([request], disable_tqdm=True)[0]
    assert whole
    cut = Instance("generate_until", {}, (TEXT, {"until": [whole[2]], "max_gen_toks": 6}), 0)
    assert model.generate_until([cut], disable_tqdm=True)[0] == whole[: whole.index(whole[2])]
