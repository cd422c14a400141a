"""`spec-rag ask`: files and a question in; an answer out, with the place where its support stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spec_rag.answering.answer import DEFAULT_KV_CAPACITY, answer_from
from spec_rag.answering.generators import Generator
from spec_rag.cli import console
from spec_rag.cli.answer_lines import answered_record, described, ending_mark
from spec_rag.cli.answerers import ApiKeyVariable, Model, Upstream, check_upstream, local_only, upstream_generator
from spec_rag.cli.ask_context import Asked, ask_context
from spec_rag.cli.compression_options import DEFAULTS, compression_options, compression_settings
from spec_rag.errors import ConfigError
from spec_rag.options.compression import SIZES, CompressionConfig, Lookahead, SpecKVConfig
from spec_rag.options.loading import DEFAULT_DRAFT

if TYPE_CHECKING:
    from spec_rag.answering.chunking import Chunk

DEFAULT_BUDGET_TOKENS = 300  # about a quarter of what is retrieved from long files; short ones pass whole
DEFAULT_ANSWER_TOKENS = 80
UPSTREAM_ANSWER_TOKENS = 1024  # a larger model ends its answer by itself, and may think before it
COMPRESSION = (
    *("max_tokens", "ratio", "coverage", "preset", "scoring", "unit", "cascade", "calibration"),
    *("language", "keep", "context_before", "context_after", "threshold"),
)

Target = Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M, a demonstration model).")]
KVCapacity = Annotated[
    int | None,
    typer.Option(
        help="KV pairs that each head keeps of the prompt; 0 keeps all (default: "
        f"{DEFAULT_KV_CAPACITY}, or all where the target is its own draft, which would write each answer twice).",
        min=0,
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(ask)


@compression_options(*COMPRESSION)
def ask(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILES... QUESTION",
            help="Files and folders of them (- reads standard input), then the question in quotes.",
            show_default=False,
        ),
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", "-q", help="The question; all arguments are then files.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Chunks to retrieve.", min=1)] = 4,
    chunk_chars: Annotated[
        int | None,
        typer.Option(
            "--chunk-chars",
            "--passage-chars",
            help="Cut files into chunks of whole paragraphs, at most this long (default: into the passages of 2,000 "
            "characters that an index holds).",
            min=1,
        ),
    ] = None,
    kv_capacity: KVCapacity = None,
    lookahead: Annotated[Lookahead, typer.Option(help="Who writes the look-ahead that prunes the KV cache.")] = "auto",
    kv_preset: console.KVPreset = "scaled",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help=f"Tokens of the answer, at most (default: {DEFAULT_ANSWER_TOKENS}; "
            f"{UPSTREAM_ANSWER_TOKENS} with --upstream).",
            min=1,
        ),
    ] = None,
    draft: console.Draft = None,
    target: Target = None,
    upstream: Upstream = None,
    model: Model = None,
    api_key_env: ApiKeyVariable = None,
    device: console.Device = None,
    index: console.Index = None,
    encoding: console.Encoding = None,
    max_file_mb: console.MaxFileMB = console.DEFAULT_MB,
    max_file_seconds: console.MaxFileSeconds = console.DEFAULT_SECONDS,
    max_html_depth: console.MaxHtmlDepth = console.DEFAULT_DEPTH,
    context: Annotated[
        Path | None,
        typer.Option(help="Read FILES whole, once, and keep in this file what any question needs of them."),
    ] = None,
    context_share: Annotated[
        float | None,
        typer.Option(help="With --context: share of the KV pairs that is kept, but 256 of each head (default: 0.25)."),
    ] = None,
    as_json: console.AsJson = False,
    **compression: Any,
) -> None:
    """Answer a question from FILES: split, retrieve, compress, answer.

    The default model is a small one for demonstration. With --upstream and --model, any server of OpenAI's API answers
    (Ollama, vLLM, a hosted one); the files are still read and shortened here.

    With --context, the model reads the files whole, and only once: later questions start from that file.

    The answer is printed as it is written, then where its support stands and what it cost. The model reads at most 300
    tokens of the chunks unless --max-tokens, --ratio or --coverage say otherwise.
    """
    files, question = files_and_question(words or [], query)
    reader = console.FileReader.of(encoding, max_file_mb, max_file_seconds, max_html_depth)
    check_upstream(upstream, model, api_key_env)
    if upstream is not None:
        local_only(
            **{
                "--target": target,
                "--context": context,
                "--kv-capacity": kv_capacity,
                "--lookahead": None if lookahead == "auto" else lookahead,
                "--kv-preset": None if kv_preset == "scaled" else kv_preset,
            }
        )
    if context is not None:
        asked = Asked(question, context, context_share, max_new_tokens or DEFAULT_ANSWER_TOKENS, as_json)
        ask_context(asked, files, target or DEFAULT_DRAFT, console.load_options(device), reader)
        return
    if context_share is not None:
        raise ConfigError(f"--context-share {context_share} needs --context FILE.")
    language = compression.get("language") or DEFAULTS["language"]
    if all(compression.get(name) is None for name in SIZES):
        compression["max_tokens"] = DEFAULT_BUDGET_TOKENS
    settings = compression_settings(**compression)
    if kv_capacity is None:
        own = upstream is not None or (draft or DEFAULT_DRAFT) == (target or DEFAULT_DRAFT)
        kv_capacity = 0 if own else DEFAULT_KV_CAPACITY
    speckv = (
        SpecKVConfig(max_capacity_prompt=kv_capacity, lookahead=lookahead, preset=kv_preset) if kv_capacity else None
    )
    with console.progress() as tell:
        generator: Generator | None = None
        if upstream is not None:
            tell("Asking the server for its models")
            generator = upstream_generator(upstream, model, api_key_env)
        tell("Reading files")
        chunks = _retrieved(files, question, chunk_chars, top_k, language, reader)
        tell("Loading the models")
        console.quiet_transformers()
        from spec_rag.compression.encoding_cache import DocumentIndex

        options = console.load_options(device)
        models: Any
        if generator is not None:
            from spec_rag.compression.document_draft import Draft

            models = Draft.of(draft or DEFAULT_DRAFT, options, CompressionConfig.from_dict(settings))
        else:
            from spec_rag.models.model_pair import ModelPair

            models = ModelPair.load(
                draft or DEFAULT_DRAFT, target or DEFAULT_DRAFT, draft_options=options, target_options=options
            )
        tell(f"The draft reads {console.counted(len(chunks), 'chunk')}")
        store = DocumentIndex(index) if index else None
        use = console.IndexUse.of(chunks, models, store, settings) if store is not None else None

        def emit(piece: str) -> None:
            tell("")
            if not as_json:
                console.say(piece, nl=False)

        answered = answer_from(
            models,
            question,
            chunks,
            speckv=speckv,
            generator=generator,
            max_new_tokens=max_new_tokens or (UPSTREAM_ANSWER_TOKENS if upstream else DEFAULT_ANSWER_TOKENS),
            index=store,
            emit=emit,
            **settings,
        )
    if as_json:
        record = answered_record(answered)
        console.print_json(record if use is None else {**record, "index": console.index_record(use)})
    else:
        lines = [described(answered), *([] if use is None else [f"Index    {use}"])]
        console.say("\n".join([f"{ending_mark(answered.answer)}\n", *lines]))


def files_and_question(words: list[str], query: str | None) -> tuple[list[Path], str]:
    """The arguments of the command as files and a question, which stands last unless --query gives it.

    Raises:
        ConfigError: one of the two is missing or empty.
    """
    usage = 'spec-rag ask FILES... "QUESTION"'
    if query is not None:
        names, question = words, query
    elif not words:
        raise ConfigError(f"Files and a question are missing: {usage}")
    else:
        *names, question = words
        if _is_file_name(question):
            raise ConfigError(
                f"The question is missing: {question} is a file. Put the question last, in quotes: "
                f'spec-rag ask {" ".join(words)} "What ...?"'
            )
    if not question.strip():
        raise ConfigError("The question is empty: put it last, in quotes.")
    if not names:
        raise ConfigError(f"No file is given for the question {question!r:.80}: {usage}")
    return [Path(name) for name in names], question


def _is_file_name(word: str) -> bool:
    """Whether an argument is a file or folder, or names one that does not exist, in place of a question."""
    from spec_rag.loaders.reading import SUFFIXES

    if word == console.STANDARD_INPUT:
        return True
    if not any(character.isspace() for character in word) and word.lower().endswith(SUFFIXES):
        return True
    try:
        return bool(word.strip()) and Path(word).exists()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def _retrieved(
    files: list[Path], question: str, chunk_chars: int | None, top_k: int, language: str, reader: console.FileReader
) -> list[Chunk]:
    from spec_rag.answering.chunking import passage_chunks, retrieve, split_chunks

    chunks: list[Chunk] = []
    for document in reader.read(files):
        chunks += passage_chunks(document, language) if chunk_chars is None else split_chunks(document, chunk_chars)
    return retrieve(question, chunks, top_k)
