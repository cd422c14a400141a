"""Waits of many clients at once, on the servers of several builds, one after the other.

python -m benchmarks.overload OLD_CHECKOUT . --target FOLDER
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated

import httpx
import typer

from spec_rag.options.loading import DEFAULT_DRAFT


@contextmanager
def server(build: Path, target: str, draft: str) -> Iterator[str]:
    """The base URL of a build's server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join(str(build.resolve() / one) for one in ("", "kernels", "integrations"))
    options = ["serve", "--target", target, "--draft", draft, "--port", str(port)]
    options += ["--max-requests", "256", "--timeout", "900"]
    command = [sys.executable, "-c", "from spec_rag.cli import main; main()", *options]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, cwd="/", stderr=subprocess.DEVNULL) as own:
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                assert own.poll() is None, "the server ended"
                try:
                    httpx.get(f"{url}/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.5)
            yield url
        finally:
            own.terminate()


def waits(url: str, clients: int, documents: int, max_tokens: int) -> list[float]:
    """Seconds until each client's answer, ascending; all ask at the same time."""
    model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]

    def ask(client: int) -> float:
        texts = [
            f"Tank {client}-{i} of the plant holds {(client * 37 + i * 11) % 900 + 50} litres. It is filled on Mondays."
            for i in range(documents)
        ]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": f"How much does tank {client}-3 hold?"}],
            "documents": texts,
            "max_tokens": max_tokens,
        }
        started = time.monotonic()
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=900).raise_for_status()
        return time.monotonic() - started

    ask(clients)
    with ThreadPoolExecutor(clients) as pool:
        return sorted(pool.map(ask, range(clients)))


def main(
    builds: Annotated[list[Path], typer.Argument(help="Checkouts; ratios are to the first.")],
    target: Annotated[str, typer.Option(help="Name or folder of the target.")],
    draft: Annotated[str, typer.Option(help="Name or folder of the draft.")] = DEFAULT_DRAFT,
    clients: Annotated[int, typer.Option(min=1)] = 64,
    documents: Annotated[int, typer.Option(min=1)] = 16,
    max_tokens: Annotated[int, typer.Option(min=1)] = 16,
) -> None:
    """Print the seconds of the first, the median and the last answer of each build."""
    first: float | None = None
    for build in builds:
        with server(build, target, draft) as url:
            before = os.getloadavg()[0]
            found = waits(url, clients, documents, max_tokens)
        first = first or median(found)
        typer.echo(
            f"{build}: first {found[0]:.1f} s, median {median(found):.1f} s, last {found[-1]:.1f} s, "
            f"ratio of medians {median(found) / first:.2f}, median to last {median(found) / found[-1]:.2f}, "
            f"load average {before:.1f} to {os.getloadavg()[0]:.1f}"
        )


if __name__ == "__main__":
    typer.run(main)
