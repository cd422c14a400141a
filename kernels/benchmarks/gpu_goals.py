"""What a run of `on_gpu.py` is held against: each goal with what was found, or that it was not measured."""

from collections.abc import Callable, Sequence
from functools import partial

from gpu_rows import BY_ARITHMETIC, FAILED, OK, Row, shown

MET, MISSED, UNKNOWN = "met", "missed", "not measured"


def goals(rows: Sequence[Row], on_gpu: bool) -> list[list[str]]:
    """Goal, found, verdict; on a CPU the figures are not the ones that the goals speak of."""
    checks = [row for row in rows if row.stage == "correctness"]
    passed, failed = (sum(row.status == status for row in checks) for status in (OK, FAILED))
    verdict = UNKNOWN if not checks else MISSED if failed or not passed else MET
    kind = "on CUDA" if on_gpu else "on a CPU and Triton's interpreter"
    lines = [[f"every correctness check passes, {kind}", f"{passed} passed, {failed} failed", verdict]]
    found = rows if on_gpu else []
    for operator, share in (("window_scores", 0.8), ("gather_kv", 0.8), ("vertical_slash_attention", 0.6)):
        wanted = partial(_is_long_call, operator)
        shares = _figures(found, "of roofline", wanted)
        lines.append(_line(f"{operator}: share of its roofline at 65,536 tokens >= {share}", shares, min, share))
    ratios = _figures(found, "times ours", lambda case: "materialised" in case)
    lines.append(_line("no kernel slower than the materialised way: times faster >= 1", ratios, min, 1.0))
    costs = [-value for value in _figures(found, "overhead", lambda case: True)]
    lines.append(_line("capture and selection, of a dense prefill at 65,536 tokens < 5%", costs, min, -0.05, -1))
    at = ", 8B, 65,536"
    dense = _figures(found, "peak GB", lambda case: case == f"dense{at}")
    pruned = _figures(found, "peak GB", lambda case: case == f"SpecKV to 1,024{at}")
    saved = [dense[0] - pruned[0]] if dense and pruned else []
    allowed = _allowed(rows, "GB of weights and KV below dense", f"SpecKV to 1,024{at}", ", weights and KV alone")
    lines.append(_line("SpecKV's peak below dense, 8B, 65,536 tokens, GB >= 20", saved, min, 20.0, note=allowed))
    faster = _figures(found, "times faster to first token", lambda case: case == f"SpecPC 1/8{at}")
    allowed = _allowed(rows, "dense prefill over its, operations", f"SpecPC 1/8{at}")
    goal = "SpecPC at 1/8, 8B, 65,536 tokens: times faster to first token >= 5"
    lines.append(_line(goal, faster, min, 5.0, note=allowed))
    return lines


def _allowed(rows: Sequence[Row], figure: str, case: str, how: str = "") -> str:
    """What arithmetic says of a goal, in brackets behind what was found."""
    computed = _figures(rows, figure, lambda found: found == f"{BY_ARITHMETIC} {case}")
    return f"(by arithmetic {shown(computed[0])}{how})" if computed else ""


def _is_long_call(operator: str, case: str) -> bool:
    return case.startswith(f"{operator}, ") and case.endswith("65,536")


def _figures(rows: Sequence[Row], name: str, wanted: Callable[[str], bool]) -> list[float]:
    return [float(row.figures[name]) for row in rows if row.status == OK and name in row.figures and wanted(row.case)]


def _line(
    goal: str,
    values: Sequence[float],
    worst: Callable[[Sequence[float]], float],
    least: float,
    sign: int = 1,
    note: str = "",
) -> list[str]:
    if not values:
        return [goal, note, UNKNOWN]
    value = worst(values)
    return [goal, f"{shown(sign * value)} {note}".strip(), MET if value >= least else MISSED]
