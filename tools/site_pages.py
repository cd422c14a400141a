"""The site's pages that do not lie in docs/: files from elsewhere in the repository, and the reference of public names.

A hook of MkDocs (mkdocs.yml). A file of the repository is written for GitHub and read here as it is: this hook gives it
a place in the site, and turns its links to other files into links to their pages, or to the repository where they have
none. It knows nothing of what the pages say.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/spec-rag/spec-rag/blob/main/"

# page of the site -> file of the repository
FILES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "roofline.md": "kernels/ROOFLINE.md",
    "peers.md": "benchmarks/peers/README.md",
}

# written by `make bench`, so not always there
MAY_BE_MISSING = {"bench.md"}

# page of the site -> its heading, what is said first, and the names it lists
REFERENCE: dict[str, tuple[str, str, list[str]]] = {
    "api/compression.md": (
        "Compression",
        "Documents and a question in, shorter documents out.",
        [
            "spec_rag.compress",
            "spec_rag.Compression",
            "spec_rag.results.CompressedDocument",
            "spec_rag.results.KeptUnit",
            "spec_rag.Document",
            "spec_rag.DocumentIndex",
            "spec_rag.Originals",
            "spec_rag.Cancellation",
            "spec_rag.Citation",
        ],
    ),
    "api/generation.md": (
        "Generation",
        "A prompt in, an answer from a shorter prompt or a pruned cache out.",
        [
            "spec_rag.generate",
            "spec_rag.generate_batch",
            "spec_rag.stream",
            "spec_rag.agenerate",
            "spec_rag.score_prompt",
            "spec_rag.Answer",
            "spec_rag.ContextCache",
        ],
    ),
    "api/models.md": (
        "Models and settings",
        "What is loaded, and how the two methods are set.",
        [
            "spec_rag.ModelPair",
            "spec_rag.LoadOptions",
            "spec_rag.SpecPCConfig",
            "spec_rag.SpecKVConfig",
            "spec_rag.options.compression.CompressionConfig",
        ],
    ),
    "api/errors.md": ("Errors", "", ["spec_rag.errors"]),
    "api/langchain.md": (
        "LangChain",
        "",
        [
            "langchain_spec_rag.SpecPCCompressor",
            "langchain_spec_rag.SpecPCRetriever",
            "langchain_spec_rag.ChatSpecKV",
            "langchain_spec_rag.SpecKVLLM",
            "langchain_spec_rag.settings.DraftedModel",
            "langchain_spec_rag.SpecPCMiddleware",
        ],
    ),
    "api/llama-index.md": (
        "LlamaIndex",
        "",
        [
            "llama_index.postprocessor.spec_rag.SpecPCCompressor",
            "llama_index.postprocessor.spec_rag.CompressionEvent",
            "llama_index.llms.spec_rag.SpecKVLLM",
            "llama_index.llms.spec_rag.KVDropEvent",
        ],
    ),
    "api/server.md": (
        "Server and Ray",
        "",
        [
            "spec_rag.serving.settings.ServerSettings",
            "spec_rag.serving.app.create_app",
            "ray_spec_rag.serve.application",
            "ray_spec_rag.data.index_with_ray",
            "ray_spec_rag.data.answer_with_ray",
        ],
    ),
    "api/evaluation.md": (
        "Evaluation harnesses",
        "",
        ["lm_eval_spec_rag.SpecRagLM"],
    ),
    "api/kernels.md": (
        "Kernels",
        "Operators on tensors, each with a Triton kernel and a path in plain torch.",
        [
            "spec_rag_kernels.window_scores",
            "spec_rag_kernels.questions_attention",
            "spec_rag_kernels.vertical_slash_attention",
            "spec_rag_kernels.gather_kv",
            "spec_rag_kernels.BackendError",
        ],
    ),
}

_CODE = re.compile(r"^(```|~~~).*?^\1[^\n]*$|`+[^`\n]+`+", flags=re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")


def reference_page(page: str) -> str:
    """The Markdown of a page of the reference, for mkdocstrings."""
    heading, opening, names = REFERENCE[page]
    return "\n\n".join([f"# {heading}", *([opening] if opening else []), *(f"::: {name}" for name in names)]) + "\n"


def site_link(link: str, page: str) -> str:
    """A link of a file as it is in the repository, as it must be on that file's page in the site."""
    if re.match(r"[a-z]+:|#|/", link):
        return link
    path, _, anchor = link.partition("#")
    source = FILES.get(page, f"docs/{page}")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    places = {file: one for one, file in FILES.items()}
    inside = places.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
    if inside is None:
        return REPOSITORY + target + (f"#{anchor}" if anchor else "")
    start = str(PurePosixPath(page).parent)
    return posixpath.relpath(inside, start) + (f"#{anchor}" if anchor else "")


def site_markdown(markdown: str, page: str) -> str:
    """A file's text with its links as they must be in the site; code is left alone."""
    pieces, end = [], 0
    for code in _CODE.finditer(markdown):
        pieces += [_with_links(markdown[end : code.start()], page), code.group()]
        end = code.end()
    return "".join([*pieces, _with_links(markdown[end:], page)])


def _with_links(markdown: str, page: str) -> str:
    return _LINK.sub(lambda found: found[1] + site_link(found[2], page) + found[3], markdown)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation what has not been written."""

    def there(entry: Any) -> bool:
        name = next(iter(entry.values())) if isinstance(entry, dict) else entry
        return name not in MAY_BE_MISSING or (ROOT / "docs" / name).exists()

    for section in config.nav or []:
        for entries in section.values() if isinstance(section, dict) else []:
            if isinstance(entries, list):
                entries[:] = [entry for entry in entries if there(entry)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    from mkdocs.structure.files import File

    for page, source in FILES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for page in REFERENCE:
        files.append(File.generated(config, page, content=reference_page(page)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a file of the repository into links of the site."""
    name = page.file.src_uri
    if name == "index.md":
        page.meta["hide"] = ["toc"]
    return markdown if name in REFERENCE else site_markdown(markdown, name)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that fetches anything from elsewhere.

    Raises:
        PluginError: a page names a script, style, picture or font of another host.
    """
    from mkdocs.exceptions import PluginError

    fetched = re.compile(r"""<(?:script|img|source|iframe|link)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"' >]+)""")
    for page in Path(config.site_dir).rglob("*.html"):
        for link in fetched.findall(page.read_text(encoding="utf-8")):
            raise PluginError(f"{page}: {link} would be fetched from elsewhere.")
