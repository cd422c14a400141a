"""`spec-rag ask`: answer a question from files, with the location of the supporting text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spec_rag.answering.answer import DEFAULT_KV_CAPACITY, answer_from
from spec_rag.answering.generators import Generator, is_demonstration
from spec_rag.cli import console
from spec_rag.cli.answer_lines import answered_record, described, ending_lines, ending_mark, model_line
from spec_rag.cli.answerers import ApiKeyVariable, Model, Upstream, check_upstream, local_only, upstream_generator
from spec_rag.cli.compression_options import DEFAULTS, compression_options, compression_settings
from spec_rag.errors import ConfigError
from spec_rag.options.compression import SIZES, CompressionConfig, Lookahead, SpecKVConfig
from spec_rag.options.loading import DEFAULT_DRAFT

if TYPE_CHECKING:
    from spec_rag.answering.chunking import Chunk

DEFAULT_BUDGET_TOKENS = 300  # about a quarter of the retrieved chunks of long files
DEFAULT_ANSWER_TOKENS = 80
UPSTREAM_ANSWER_TOKENS = 1024  # larger models end by themselves, and may think first
COMPRESSION = (
    *("max_tokens", "ratio", "coverage", "preset", "scoring", "unit", "cascade", "calibration"),
    *("language", "keep", "context_before", "context_after", "threshold"),
)

Target = Annotated[str | None, typer.Option(help="Model that answers (default: SmolLM2-135M, a demonstration model).")]
KVCapacity = Annotated[
    int | None,
    typer.Option(
        help="KV pairs of the prompt that each head keeps; 0 keeps all (default: "
        f"{DEFAULT_KV_CAPACITY}; 0 if draft and target are the same model).",
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
            help="Files and folders (- is standard input), then the question in quotes.",
            show_default=False,
        ),
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", "-q", help="The question; then all arguments are files.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Chunks to retrieve.", min=1)] = 4,
    chunk_chars: Annotated[
        int | None,
        typer.Option(
            "--chunk-chars",
            "--passage-chars",
            help="Maximum length of chunks, which are whole paragraphs (default: the passages of an index, 2,000 "
            "characters).",
            min=1,
        ),
    ] = None,
    kv_capacity: KVCapacity = None,
    lookahead: Annotated[Lookahead, typer.Option(help="Model that writes the look-ahead of KV pruning.")] = "auto",
    kv_preset: console.KVPreset = "scaled",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help=f"Maximum tokens of the answer (default: {DEFAULT_ANSWER_TOKENS}; "
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
        typer.Option(help="File of the KV cache of all FILES: written once, reused for later questions."),
    ] = None,
    context_share: Annotated[
        float | None,
        typer.Option(help="With --context: share of KV pairs to keep, at least 256 per head (default: 0.25)."),
    ] = None,
    as_json: console.AsJson = False,
    **compression: Any,
) -> None:
    """Answer a question from FILES: split, retrieve, compress, answer.

    The default model is a small demonstration model. With --upstream and --model an OpenAI-compatible server answers
    (Ollama, vLLM, a hosted one); files are still read and compressed locally.

    With --context the model reads the whole files once; later questions start from the saved KV cache.

    Prints the answer, the location of its support, tokens and seconds. The model reads at most 300 tokens of the chunks
    unless --max-tokens, --ratio or --coverage is given.
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
        request = ContextQuestion(question, context, context_share, max_new_tokens or DEFAULT_ANSWER_TOKENS, as_json)
        ask_context(request, files, target or DEFAULT_DRAFT, console.load_options(device), reader)
        return
    if context_share is not None:
        raise ConfigError(f"--context-share {context_share} needs --context FILE.")
    language = compression.get("language") or DEFAULTS["language"]
    if all(compression.get(name) is None for name in SIZES):
        compression["max_tokens"] = DEFAULT_BUDGET_TOKENS
    settings = compression_settings(**compression)
    if kv_capacity is None:
        unpruned = upstream is not None or (draft or DEFAULT_DRAFT) == (target or DEFAULT_DRAFT)
        kv_capacity = 0 if unpruned else DEFAULT_KV_CAPACITY
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
    """Split the arguments into files and the question, which is last or given by --query.

    Raises:
        ConfigError: files or question are missing.
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
    """Whether an argument is a path rather than a question; the path may not exist."""
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


@dataclass(frozen=True)
class ContextQuestion:
    """Options of `spec-rag ask --context`."""

    question: str
    path: Path
    share: float | None
    max_new_tokens: int
    as_json: bool


def ask_context(
    request: ContextQuestion, files: list[Path], target: str, options: Any, reader: console.FileReader
) -> None:
    """Answer from the saved context; read the files and save it if it is missing or outdated."""
    from spec_rag.answering.answer import answer_from_context, context_of

    with console.progress() as tell:
        tell("Reading files")
        documents = reader.read(files)
        tell("Loading the model")
        console.quiet_transformers()
        from spec_rag.models.model_pair import ModelPair

        pair = ModelPair.load(None, target, target_options=options)
        tell("The model reads the context")
        context = context_of(pair, documents, request.path, request.share)
        tell("Answering")

        def emit(piece: str) -> None:
            tell("")
            if not request.as_json:
                console.say(piece, nl=False)

        answer = answer_from_context(pair, request.question, context, max_new_tokens=request.max_new_tokens, emit=emit)
    timings, model = answer.timings, pair.name_of("target") or ""
    if request.as_json:
        statistics = {
            "context_tokens": context.tokens,
            "context_bytes": context.nbytes,
            "seconds": {"prefill": timings.prefill_seconds, "decode": timings.decode_seconds},
        }
        about = {"model": model, "demonstration_model": is_demonstration(model)}
        ending = {"finish_reason": answer.finish_reason}
        console.print_json(
            {"question": request.question, **about, "answer": answer.text, **ending, **answer.usage, **statistics}
        )
        return
    lines = [f"{ending_mark(answer)}\n", model_line(model), *ending_lines(answer)]
    console.say("\n".join(lines))
    console.say(
        f"Context  {context.tokens:,} tokens, {100 * context.settings['kept']:.0f} % of their pairs in "
        f"{request.path} "
        f"({context.nbytes / 2**20:.1f} MiB)\n"
        f"Seconds  {timings.total_seconds:.1f}: question {timings.prefill_seconds:.1f}, decoding "
        f"{timings.decode_seconds:.1f}"
    )
