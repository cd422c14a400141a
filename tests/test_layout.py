"""Structure: directions of imports, lengths of files, numbers of parameters, and global state."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "spec_rag"
# from the ground up; rooms on one floor do not know each other. Modules of no room are the ground.
FLOORS = [
    ["utils"],
    ["text"],
    ["options"],
    ["models", "loaders"],
    ["attention"],
    ["compression", "generation"],
    ["answering", "tool_results"],
    ["calibration"],
    ["evaluation"],
    ["serving"],
    ["cli"],
]
HEIGHT = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LONGEST = 500


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(CORE.rglob("*.py"))}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(path: Path, *, for_types: bool = True) -> set[str]:
    """The modules a file imports, wherever in the file it does so; without those it needs for types alone if asked."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in [] if for_types else [node for node in tree.body if is_for_types(node)]:
        tree.body.remove(node)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= below or {node.module}
    return found


def room(module: str) -> str | None:
    """The folder that the module is in, or None for the ground."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (CORE / parts[1]).is_dir() else None


def test_every_room_has_its_floor() -> None:
    rooms = {path.parent.relative_to(CORE).parts[0] for path in MODULES.values() if path.parent != CORE}
    assert rooms <= HEIGHT.keys()


def runs_down(own: str | None, theirs: str | None) -> bool:
    if theirs == own or theirs is None:
        return True
    if own is None:
        return theirs in ("utils", "text", "options")
    return HEIGHT[theirs] < HEIGHT[own]


def test_no_import_runs_back_up() -> None:
    arrows = {
        (name, other)
        for name, path in MODULES.items()
        for other in imported(path) & MODULES.keys()
        if name != "spec_rag"  # the list of public names
    }
    assert [(name, other) for name, other in sorted(arrows) if not runs_down(room(name), room(other))] == []


def test_no_imports_go_round_in_a_circle() -> None:
    arrows = {name: imported(path, for_types=False) & MODULES.keys() - {"spec_rag"} for name, path in MODULES.items()}
    del arrows["spec_rag"]
    assert list(TopologicalSorter(arrows).static_order())


@pytest.mark.parametrize(
    ("paths", "strangers"),
    [
        (list(MODULES.values()), {"langchain_core", "langchain", "langchain_spec_rag", "llama_index"}),
        (sorted((ROOT / "kernels" / "spec_rag_kernels").rglob("*.py")), {"spec_rag", "transformers"}),
    ],
    ids=["core", "kernels"],
)
def test_the_core_knows_no_framework_and_the_kernels_not_the_core(paths: list[Path], strangers: set[str]) -> None:
    assert len(paths) > 10
    for path in paths:
        assert not {module.split(".")[0] for module in imported(path)} & strangers, path


def test_no_file_of_the_core_is_too_long() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


# compression is exempt until its stages take a request
FEW_PARAMETERS = [path for path in MODULES.values() if path.parent.name in ("generation", "attention", "options")]


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of a function's parameters, `*args` and `**kwargs` included, without `self` and `cls`."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return [one.arg for one in named if one.arg not in ("self", "cls")]


@pytest.mark.parametrize("path", FEW_PARAMETERS, ids=lambda path: path.stem)
def test_no_function_of_a_generation_takes_more_than_six_parameters(path: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if hasattr(node, "args")]
    named = [node for node in functions if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {node.name: len(parameters(node)) for node in named if len(parameters(node)) > 6} == {}


def test_the_package_has_two_context_variables_and_nothing_is_looked_up_by_the_id_of_an_object() -> None:
    """Progress is reported per request or task; LlamaIndex's callbacks give a method no way to pass its streams on."""
    paths = [*CORE.rglob("*.py"), *(ROOT / "integrations").rglob("*.py")]
    texts = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}
    variables = [name for name, text in texts.items() if re.search(r"(?m)^_\w+: (ContextVar|Scoped)\[", text)]
    assert sorted(variables) == ["integrations/llama_index/llms/spec_rag/streams.py", "spec_rag/utils/progress.py"]
    owned = [
        path for path in CORE.rglob("*.py") if path.parent.name in ("generation", "attention", "models", "options")
    ]
    by_id = {path.name for path in owned if re.search(r"\[id\(|\.get\(id\(|\{\s*id\(", path.read_text("utf-8"))}
    assert by_id == set()
