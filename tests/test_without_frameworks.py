"""The core needs no RAG framework, and an adapter without its framework says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = ("langchain_core", "langchain", "langchain_text_splitters", "llama_index.core")


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where the frameworks cannot be imported."""
    missing = f"import sys\nfor name in {FRAMEWORKS!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", missing + code], capture_output=True, text=True, timeout=120)


def test_every_public_name_of_the_core_is_there_without_a_framework() -> None:
    code = "import spec_rag\nfor name in spec_rag.__all__: getattr(spec_rag, name)\nprint('fine')"
    done = run(code)
    assert done.stdout.strip() == "fine", done.stderr


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    done = run("import spec_rag\nprint([m for m in ('torch', 'transformers') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("statement", "extra"),
    [
        ("from langchain_spec_rag import SpecPCCompressor", "spec-rag[langchain]"),
        ("from langchain_spec_rag import ChatSpecKV", "spec-rag[langchain]"),
        ("from llama_index.postprocessor.spec_rag import SpecPCCompressor", "spec-rag[llama-index]"),
        ("from llama_index.llms.spec_rag import SpecKVLLM", "spec-rag[llama-index]"),
    ],
)
def test_an_adapter_without_its_framework_says_what_to_install(statement: str, extra: str) -> None:
    done = run(statement)
    assert done.returncode != 0
    assert f'pip install "{extra}"' in done.stderr
