"""The docs hang together: links and anchors lead somewhere, the site has a place for each page and each public name."""

from __future__ import annotations

import ast
import importlib.util
import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from snippets import PAGES, ROOT


def load_site_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "tools" / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = load_site_pages()
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def links(path: Path) -> Iterator[str]:
    """Targets of links and pictures."""
    for token in tokens(path):
        for child in token.children or []:
            target = child.attrs.get("href") or child.attrs.get("src")
            if target:
                yield str(target)


def anchors(path: Path) -> set[str]:
    """Of the page's headings, where GitHub and Python-Markdown call them the same."""
    found = set()
    stream = tokens(path)
    for opening, content in pairwise(stream):
        if opening.type == "heading_open":
            text = "".join(child.content for child in content.children or [])
            on_github = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
            in_site = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_text).strip().lower())
            if on_github == in_site:
                found.add(in_site)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", ["docs/structure.md", "CONTRIBUTING.md"])
def test_files_that_the_pages_for_contributors_name_exist(page: str) -> None:
    roots = [ROOT, ROOT / "spec_rag", ROOT / "spec_rag" / "compression", ROOT / "kernels" / "spec_rag_kernels"]
    named = set(re.findall(r"`([\w./]+\.(?:py|toml|md)|[\w./]+/)`", (ROOT / page).read_text(encoding="utf-8")))
    operator = {"naive.py", "chunked.py", "triton.py", "__init__.py", "py.typed"}
    kernels = {"kernel_cases.py", "interpreted_kernels.py", "compile_ahead.py", "roofline.py", "gpu_kernels.py"}
    named -= operator | kernels | {"checks.py", "tiles.py", "docs/gpu.md", "planning/", "site/"}
    assert [name for name in sorted(named) if not any((root / name).exists() for root in roots)] == []


def entries(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from entries(entry)


def test_the_navigation_has_every_page_and_no_other() -> None:
    listed = list(entries(CONFIG["nav"]))
    in_docs = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == in_docs | SITE.FILES.keys() | SITE.REFERENCE.keys() | SITE.MAY_BE_MISSING
    assert all((ROOT / path).is_file() for path in SITE.FILES.values())


def test_the_site_fetches_nothing_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False
    assert not any("//" in name for kind in ("extra_css", "extra_javascript") for name in CONFIG.get(kind, []))
    assert "repo_url" not in CONFIG  # the theme would ask GitHub for the number of stars


def public_names(package: str) -> set[str]:
    """The names in `__all__` of a package, which is not imported: it may need what is not installed."""
    roots = [ROOT, ROOT / "integrations", ROOT / "kernels"]
    (path,) = [file for root in roots if (file := root / package.replace(".", "/") / "__init__.py").is_file()]
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{package} has no __all__")


def test_the_reference_lists_every_public_name() -> None:
    import spec_rag

    listed = {name for _, _, names in SITE.REFERENCE.values() for name in names}
    packages = ["langchain_spec_rag", "llama_index.llms.spec_rag", "llama_index.postprocessor.spec_rag"]
    packages += ["spec_rag_kernels", "lm_eval_spec_rag"]
    public = {f"spec_rag.{name}" for name in spec_rag.__all__}
    public |= {f"{package}.{name}" for package in packages for name in public_names(package)}
    assert public - listed == set()


@pytest.mark.parametrize(
    ("link", "page", "expected"),
    [
        ("docs/options.md#kernels", "index.md", "options.md#kernels"),
        ("../kernels/ROOFLINE.md", "measurements.md", "roofline.md"),
        ("../examples/langchain_lcel_chain.py", "langchain.md", f"{SITE.REPOSITORY}examples/langchain_lcel_chain.py"),
        ("../../CONTRIBUTING.md", "peers.md", "contributing.md"),
        ("exchange.py", "peers.md", f"{SITE.REPOSITORY}benchmarks/peers/exchange.py"),
        ("docs/hotpot-10.svg", "index.md", "hotpot-10.svg"),
        ("https://arxiv.org/abs/2506.08373", "index.md", "https://arxiv.org/abs/2506.08373"),
        ("#limits", "deployment.md", "#limits"),
    ],
)
def test_a_link_is_turned_to_the_site_s_page_or_the_repository(link: str, page: str, expected: str) -> None:
    assert SITE.site_markdown(f"A [text]({link}).", page) == f"A [text]({expected})."


def test_code_is_left_alone() -> None:
    code = "`[text](../x.py)`\n\n```python\ny = [text](../x.py)\n```\n"
    assert SITE.site_markdown(code, "options.md") == code
