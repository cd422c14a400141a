"""How the MCP server looks to agents: its schemas, its progress, repeated searches, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving.helpers import FACTS, engine, settings

mcp = pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from spec_rag.serving.folder_search import FolderSearch  # noqa: E402
from spec_rag.serving.mcp_server import create_server  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for title, text in FACTS:
        (tmp_path / f"{title}.md").write_text(f"# {title}\n\n{text}\n")
    return tmp_path


async def test_every_argument_is_described_and_every_tool_says_that_it_changes_nothing(folder: Path) -> None:
    async with mcp.Client(create_server(settings(), [folder], engine())) as client:
        tools = (await client.list_tools()).tools
    for tool in tools:
        assert "ctx" not in tool.input_schema["properties"]
        assert all(one.get("description") for one in tool.input_schema["properties"].values()), tool.name
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema["properties"]
        assert tool.annotations.read_only_hint
        assert not tool.annotations.destructive_hint
        assert tool.title or tool.annotations.title


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("search_and_compress", {"query": "x", "max_token": 5}, "max_token"),
        ("compress", {"texts": [{"text": "a"}], "query": "b", "budget": 5}, "budget"),
        ("compress", {"texts": [{"text": "a", "name": "b"}], "query": "b"}, "name"),
        ("expand", {"handle": "x", "before": 2}, "before"),
    ],
)
async def test_unknown_arguments_are_refused_by_name(
    folder: Path, name: str, arguments: dict[str, Any], says: str
) -> None:
    async with mcp.Client(create_server(settings(), [folder], engine())) as client:
        result = await client.call_tool(name, arguments)
    assert result.is_error
    assert says in result.content[0].text
    assert "Extra inputs are not permitted" in result.content[0].text


async def test_results_are_short_text_and_fields_and_progress_is_told(folder: Path) -> None:
    told: list[tuple[float, str | None]] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message))

    for i in range(9):
        (folder / f"broken{i}.pdf").write_bytes(b"no pdf")
    async with mcp.Client(create_server(settings(), [folder], engine())) as client:
        arguments = {"query": "How much does tank 3 hold?", "max_tokens": 120}
        result = await client.call_tool("search_and_compress", arguments, progress_callback=tell)
        passage = result.structured_content["passages"][0]
        near = await client.call_tool("expand", {"handle": passage["handle"]})
    text, *links = result.content[0].text, *result.content[1:]
    assert {one.type for one in links} <= {"resource_link"}
    assert text.startswith(f"[{passage['handle']}] {passage['source']}:{passage['start']}-{passage['end']}\n")
    assert passage["text"] in text
    assert len(result.structured_content["skipped"]) == 6
    assert text.endswith("and 4 more")
    assert [message for _, message in told] == ["Searching the files", "Reading 2 chunks"]
    assert near.content[0].text.startswith(f"{passage['source']}:")


async def test_files_that_passages_are_from_are_links_that_the_server_reads(folder: Path) -> None:
    (folder / "Food.md").rename(folder / "Food é #1 100%.md")
    (folder.parent / f"{folder.name}.txt").write_text("The secret tank holds nothing.")
    async with mcp.Client(create_server(settings(), [folder], engine())) as client:
        (template,) = (await client.list_resource_templates()).resource_templates
        arguments = {"query": "Is soup number 3 served hot?", "max_tokens": 400}
        result = await client.call_tool("search_and_compress", arguments)
        links = result.content[1:]
        sources = {one["source"] for one in result.structured_content["passages"]}
        assert {one.name for one in links} == {Path(source).name for source in sources} >= {"Food é #1 100%.md"}
        for link in links:
            (read,) = (await client.read_resource(link.uri)).contents
            assert read.text == (folder / link.name).read_text()
            assert (read.mime_type, link.size) == (link.mime_type, len(read.text.encode()))
        outside = f"{folder.as_uri()}.txt"
        for uri in (outside, f"{folder.as_uri()}/../{folder.name}.txt", "file:///etc/passwd", folder.as_uri()):
            with pytest.raises(mcp.MCPError):
                await client.read_resource(uri)
    assert template.uri_template == "file:///{+path}"


def test_a_folder_is_read_once_and_again_where_it_was_modified(folder: Path) -> None:
    search = FolderSearch([folder])
    first = search.search("How much does tank 3 hold?", None, 3)
    assert search._files.reads == 2
    assert search.search("Is soup hot?", None, 3).chunks[0].metadata["source"] == str(folder / "Food.md")
    assert search.search("How much does tank 3 hold?", ["Tank.md"], 3).chunks[0].text == first.chunks[0].text
    assert search._files.reads == 2
    (folder / "Food.md").write_text("# Food\n\nBread is baked on Mondays.\n")
    (folder / "Bakery.txt").write_text("The baker is called Odalys Fenn.\n")
    assert "Mondays" in search.search("When is bread baked?", None, 1).chunks[0].text
    assert "Odalys" in search.search("Who is the baker?", None, 1).chunks[0].text
    assert search._files.reads == 4
    (folder / "Food.md").unlink()
    gone = search.search("When is bread baked?", None, 9)
    assert not any("Mondays" in chunk.text for chunk in gone.chunks)
    assert str(folder / "Food.md") not in gone.texts
    assert len(search._files._known) == 2


def test_a_file_that_cannot_be_read_is_named_each_time_and_read_when_it_is_mended(folder: Path) -> None:
    search = FolderSearch([folder])
    (folder / "Note.md").write_bytes(b"caf\xe9\xff")
    for _ in range(2):
        assert "Note.md" in search.search("Is soup hot?", None, 3).skipped[0]
    assert search._files.reads == 3
    (folder / "Note.md").write_text("The café opens at nine.")
    found = search.search("When does the café open?", None, 1)
    assert (found.skipped, "nine" in found.chunks[0].text) == ([], True)


HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
}
READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}


def hang_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def stop_listening(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    process.stdin.write(f"{json.dumps(LIST)}\n".encode())
    process.stdin.close()


@pytest.mark.skipif(os.name == "nt", reason="other signals")
@pytest.mark.parametrize(
    ("leave", "code", "says"),
    [
        (hang_up, 0, b""),
        (stop_listening, 0, b""),
        (lambda process: process.send_signal(signal.SIGINT), 130, b"interrupted\n"),
        (lambda process: process.send_signal(signal.SIGTERM), -signal.SIGTERM, b""),
    ],
    ids=["hang up", "stop listening", "ctrl-c", "terminate"],
)
def test_the_server_ends_quietly_when_its_client_leaves(
    folder: Path, leave: Callable[[subprocess.Popen[bytes]], None], code: int, says: bytes
) -> None:
    command = [sys.executable, "-c", "from spec_rag.cli import main; main()", "mcp", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(f"{json.dumps(HELLO)}\n".encode())
        process.stdin.flush()
        assert b"serverInfo" in process.stdout.readline()
        process.stdin.write(f"{json.dumps(READY)}\n".encode())
        process.stdin.flush()
        started = time.monotonic()
        leave(process)
        assert process.wait(30) == code
        assert time.monotonic() - started < 20
        assert process.stderr.read() == says
    finally:
        process.kill()
