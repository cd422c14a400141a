"""`spec-rag plan`: tokens and bytes of each method for a pair of models, without loading them."""

from __future__ import annotations

from typing import Annotated

import typer

from spec_rag.cli import console


def register(commands: typer.Typer) -> None:
    commands.command()(plan)


def plan(
    draft: Annotated[str, typer.Option(help="Known model, such as Llama-3.2-1B, or a folder with a config.json.")],
    target: Annotated[str, typer.Option(help="Model that answers, given as for --draft.")],
    context: Annotated[int, typer.Option(help="Tokens of the prompt.", min=1)],
    budget: Annotated[int, typer.Option(help="Kept document or prompt tokens, or KV pairs per head.", min=1)],
    new_tokens: Annotated[int, typer.Option(help="Tokens of the answer.", min=1)] = 256,
    prompt_budget: Annotated[
        int | None, typer.Option(help="Prompt tokens after SpecPC in SpecKV-PC; also shows that method.", min=1)
    ] = None,
    lookahead: Annotated[
        int | None, typer.Option(help="Look-ahead tokens of SpecKV (default: as the answer).", min=1)
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="Its memory is compared: h100, h200, a100, a10, l4, l40s, t4, rtx4090, mi300x or cpu."),
    ] = "h100",
    devices: Annotated[int, typer.Option(help="Number of such devices.", min=1)] = 1,
    bits: Annotated[
        int | None, typer.Option(help="Bits per weight, key and value: 4, 8, 16 or 32 (default: 16; 32 on cpu).")
    ] = None,
    as_json: console.AsJson = False,
) -> None:
    """Compute tokens and bytes of dense, compress, SpecPC and SpecKV from model configs.

    SpecPC needs the same tokenizer in draft and target; for other pairs it is listed as refused.
    """
    from spec_rag.evaluation import memory_plan
    from spec_rag.evaluation.model_shapes import model_shape

    memory = memory_plan.device_bytes(device)
    request = memory_plan.PlanRequest(
        model_shape(draft),
        model_shape(target),
        context,
        budget,
        new_tokens,
        prompt_budget,
        lookahead,
        bits if bits is not None else (32 if device.lower() == "cpu" else 16),
        None if memory is None else memory * devices,
    )
    planned = memory_plan.plan(request)
    if as_json:
        console.print_json(planned.to_dict())
        return
    where = f"{devices} x {device.lower()}" if devices > 1 else device.lower()
    lengths = f"{context:,} prompt tokens, {budget:,} kept, {new_tokens:,} generated"
    typer.echo(f"{request.draft.name} for {request.target.name} on {where}, {request.bits} bits: {lengths}\n")
    typer.echo(memory_plan.as_markdown(planned))
