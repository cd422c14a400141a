"""`spec-rag plan`: what a pair of models will cost on a device, before either is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from spec_rag.cli import console


def register(commands: typer.Typer) -> None:
    commands.command()(plan)


def plan(
    draft: Annotated[str, typer.Option(help="Known model, such as Llama-3.2-1B, or a folder with its config.json.")],
    target: Annotated[str, typer.Option(help="The same, of the model that answers.")],
    context: Annotated[int, typer.Option(help="Tokens of the prompt.", min=1)],
    budget: Annotated[int, typer.Option(help="Document or prompt tokens, or KV pairs per head, that are kept.", min=1)],
    new_tokens: Annotated[int, typer.Option(help="Tokens of the answer.", min=1)] = 256,
    prompt_budget: Annotated[
        int | None, typer.Option(help="Prompt tokens that SpecKV-PC leaves to SpecKV; shows that method too.", min=1)
    ] = None,
    lookahead: Annotated[
        int | None, typer.Option(help="Tokens that SpecKV's draft writes (default: as many as the answer).", min=1)
    ] = None,
    device: Annotated[
        str, typer.Option(help="h100, h200, a100, a10, l4, l40s, t4, rtx4090, mi300x; or cpu, measured here and now.")
    ] = "h100",
    devices: Annotated[int, typer.Option(help="So many of them share the work evenly.", min=1)] = 1,
    bits: Annotated[int | None, typer.Option(help="Of weights, keys and values: 4, 8, 16 or 32.")] = None,
    compute_share: Annotated[float | None, typer.Option(help="Share of the peak FLOPs that is reached.")] = None,
    bandwidth_share: Annotated[float | None, typer.Option(help="Share of the peak bandwidth that is reached.")] = None,
    pass_ms: Annotated[float, typer.Option(help="Milliseconds that each pass takes beside.", min=0)] = 0.0,
    as_json: console.AsJson = False,
) -> None:
    """Predict seconds and bytes of dense, compress, SpecPC and SpecKV from configs alone, and from where on each pays.

    SpecPC needs a draft with the target's tokenizer; for other pairs its row says that it is refused.
    """
    from spec_rag.evaluation.planning.costs import Pair
    from spec_rag.evaluation.planning.plan import as_markdown, device_of
    from spec_rag.evaluation.planning.plan import plan as planned
    from spec_rag.evaluation.planning.shapes import model_shape

    own, small, large = device_of(device), model_shape(draft), model_shape(target)
    given: dict[str, Any] = {"bits": bits, "compute_share": compute_share, "bandwidth_share": bandwidth_share}
    own = replace(own, **{name: value for name, value in given.items() if value is not None})
    memory = own.memory * devices if own.memory else None
    own = replace(own, flops=own.flops * devices, bandwidth=own.bandwidth * devices, memory=memory)
    pair = Pair(small, large, own, pass_ms / 1e3)
    found = planned(pair, context, budget, new_tokens, prompt_budget=prompt_budget, lookahead_tokens=lookahead)
    if as_json:
        console.print_json(found.to_dict())
        return
    where = f"{devices} x {own.name}" if devices > 1 else own.name
    typer.echo(f"{small.name} for {large.name} on {where}, {own.bits} bits: {context:,} tokens, {budget:,} kept, "
               f"{new_tokens:,} written\n\n{as_markdown(found)}")  # fmt: skip
