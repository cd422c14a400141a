"""Compression before a served model: OPENAI_MODEL at OPENAI_BASE_URL, or `transformers serve` on this machine."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from langchain_core.documents import Document
from langchain_openai import ChatOpenAI
from langchain_spec_rag import ChatSpecKV, SpecPCCompressor

CHAPTER, URL = Path(__file__).parent / "handbook" / "01-welcome-and-history.md", "http://localhost:8765"


def serve(model: str) -> subprocess.Popen:
    server = subprocess.Popen([Path(sys.executable).with_name("transformers"), "serve", model, "--port", URL[-4:]])
    while server.poll() is None:
        with suppress(OSError), urlopen(f"{URL}/health"):
            return server
        time.sleep(0.5)
    raise SystemExit('The server did not start: pip install "transformers[serving]"')


def main(question: str = "Who discovered the comet of 1937?") -> None:
    (kept,) = SpecPCCompressor(max_tokens=250).compress_documents([Document(CHAPTER.read_text())], question)
    model = os.environ.get("OPENAI_MODEL") or ChatSpecKV().load().target.name_or_path
    server = None if "OPENAI_BASE_URL" in os.environ else serve(model)
    served = {"base_url": f"{URL}/v1", "api_key": "none"} if server else {}
    try:
        print(ChatOpenAI(model=model, max_tokens=48, **served).invoke(f"{kept.page_content}\n\n{question}").text)
    finally:
        _ = server and server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
