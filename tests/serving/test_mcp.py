"""The tools that agents get over the Model Context Protocol."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from serving.helpers import FACTS, Light, engine, settings
from tool_results import test_kinds as samples

mcp = pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from spec_rag.serving.mcp_server import create_server  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    for title, text in FACTS:
        (tmp_path / "docs" / f"{title}.md").write_text(f"# {title}\n\n{text}\n\nThe end of {title}.\n")
    (tmp_path / "docs" / "broken.pdf").write_bytes(b"no pdf")
    (tmp_path / "secret.txt").write_text("The secret tank holds nothing.")
    return tmp_path / "docs"


async def call(server: Any, name: str, **arguments: Any) -> Any:
    async with mcp.Client(server) as client:
        result = await client.call_tool(name, arguments)
    if result.is_error:
        raise LookupError(result.content[0].text)
    return result.structured_content


async def test_three_tools_are_offered_with_their_arguments(folder: Path) -> None:
    async with mcp.Client(create_server(settings(), [folder], engine())) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"compress", "search_and_compress", "expand"}
    assert set(tools["compress"].input_schema["required"]) == {"texts", "query"}
    assert all(tool.description for tool in tools.values())


async def test_texts_are_compressed_and_a_kept_span_is_expanded(folder: Path) -> None:
    server = create_server(settings(), [folder], engine())
    texts = [{"title": title, "text": f"Before.\n\n{text}\n\nAfter {title}."} for title, text in FACTS]
    found = await call(server, "compress", texts=texts, query="How much does tank 3 hold?", max_tokens=150)
    assert 0 < found["tokens_after"] <= 150 < found["tokens_before"]
    for passage in found["passages"]:
        text = texts[int(passage["source"].split()[1]) - 1]["text"]
        assert text[passage["start"] : passage["end"]] == passage["text"]
    passage = max(found["passages"], key=lambda one: len(one["text"]))
    near = await call(server, "expand", handle=passage["handle"], context_before=1, context_after=1)
    assert passage["text"] in near["text"]
    assert not near["is_whole"]
    assert len(near["text"]) > len(passage["text"])
    alone = await call(server, "expand", handle=passage["handle"], context_before=0, context_after=0)
    assert (alone["text"], alone["start"]) == (passage["text"], passage["start"])
    whole = await call(server, "expand", handle=passage["handle"], context_before=None, context_after=None)
    assert whole["is_whole"]
    assert whole["text"].startswith("Before.")


async def test_files_are_searched_inside_the_folders_alone(folder: Path) -> None:
    server = create_server(settings(), [folder], engine())
    found = await call(server, "search_and_compress", query="How much does tank 3 hold?", max_tokens=120)
    assert {Path(one["source"]).name for one in found["passages"]} <= {"Tank.md", "Food.md"}
    for passage in found["passages"]:
        assert Path(passage["source"]).read_text()[passage["start"] : passage["end"]] == passage["text"]
    near = await call(server, "expand", handle=found["passages"][0]["handle"])
    assert Path(near["source"]).read_text()[near["start"] : near["end"]] == near["text"]
    assert found["passages"][0]["text"] in near["text"]
    assert "broken.pdf" in found["skipped"][0]
    only = await call(server, "search_and_compress", query="Is soup hot?", paths=["Food.md"], max_tokens=80)
    assert {Path(one["source"]).name for one in only["passages"]} == {"Food.md"}
    for path in ("../secret.txt", str(folder.parent / "secret.txt"), "nothing.md", "/etc/passwd"):
        with pytest.raises(LookupError, match="no such file"):
            await call(server, "search_and_compress", query="secret?", paths=[path])


async def test_links_out_of_the_folder_are_not_followed(folder: Path) -> None:
    (folder / "link.md").symlink_to("../secret.txt")
    (folder / "up").symlink_to("..", target_is_directory=True)
    server = create_server(settings(), [folder], engine())
    for path in ("link.md", "up", "up/secret.txt"):
        with pytest.raises(LookupError, match="no such file"):
            await call(server, "search_and_compress", query="What does the secret tank hold?", paths=[path])
    found = await call(server, "search_and_compress", query="What does the secret tank hold?", max_tokens=120)
    assert "secret.txt" not in json.dumps(found)
    assert "holds nothing" not in json.dumps(found)
    assert [one for one in found["skipped"] if "2 links lead out of the folder" in one]


async def test_a_long_source_is_expanded_in_part(tmp_path: Path) -> None:
    text = " ".join(f"Tank {i} holds {i * 10} litres." for i in range(1500))
    (tmp_path / "long.md").write_text(text)
    server = create_server(settings(), [tmp_path], engine())
    found = await call(server, "search_and_compress", query="How much does tank 1400 hold?", max_tokens=120)
    for passage in found["passages"]:
        near = await call(server, "expand", handle=passage["handle"], context_before=2, context_after=2)
        assert near["text"] == text[near["start"] : near["end"]]
        assert passage["text"] in near["text"]
        whole = await call(server, "expand", handle=passage["handle"], context_before=None, context_after=None)
        assert (whole["start"], whole["is_whole"]) == (0, False)
        assert text.startswith(whole["text"])
        assert 15_000 < len(whole["text"]) <= 20_000


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("expand", {"handle": "x"}, "no document with the handle 'x'"),
        ("expand", {"handle": "x", "context_before": -1}, "context_before=-1"),
        ("compress", {"texts": [{"text": "a"}], "query": " "}, "empty"),
        ("compress", {"texts": [{"text": "a"}], "query": "b", "max_tokens": 0}, "max_tokens=0"),
        ("compress", {"texts": "a", "query": "b"}, "texts"),
        ("search_and_compress", {"query": "x", "top_k": 0}, "top_k=0"),
    ],
)
async def test_what_cannot_work_is_told(folder: Path, name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(LookupError, match=says):
        await call(create_server(settings(), [folder], engine()), name, **arguments)


async def test_the_command_speaks_the_protocol_on_standard_input(folder: Path) -> None:
    from mcp.client.stdio import StdioServerParameters, stdio_client

    code = "from spec_rag.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = StdioServerParameters(command=sys.executable, args=["-c", code, "mcp", str(folder)], env=environment)
    async with mcp.Client(stdio_client(command)) as client:
        assert len((await client.list_tools()).tools) == 3
        result = await client.call_tool("expand", {"handle": "x"})
    assert result.is_error
    assert "no document with the handle" in json.dumps(result.content[0].text)


async def test_texts_keep_their_format_and_say_what_is_left_out() -> None:
    server = create_server(settings(), [], Light())  # type: ignore[arg-type]
    texts = [{"text": samples.JSON, "title": "api"}, {"text": samples.PROSE * 9, "title": "page"}]
    found = await call(server, "compress", texts=texts, query="Which tank?", max_tokens=60)
    (first, *_) = found["passages"]
    assert len(first["text"]) < len(samples.JSON)
    assert any("items omitted" in item for item in json.loads(first["text"])["items"] if isinstance(item, str))
    (omitted,) = found["omitted"]
    assert (omitted["source"], omitted["of_characters"]) == ("text 2", len(samples.PROSE * 9))
    whole = await call(server, "expand", handle=omitted["handle"], context_before=None, context_after=None)
    assert whole["text"] == samples.PROSE * 9
    lines = await call(server, "expand", handle=first["handle"], first_line=2, last_line=3)
    assert lines["text"] == "\n".join(samples.JSON.split("\n")[1:3])
