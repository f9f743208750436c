"""The plan of the house: imports go down the floors, and importing brutax changes nothing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import brutax

ROOT = Path(brutax.__file__).parent
FLOORS = [
    {"utils", "cache"},
    {"data", "infer"},
    {"priors", "dust", "models", "catalog"},
    {"solver"},
    {"fitting", "star", "cluster", "sightline"},
    {"zeropoints"},
    {"plotting"},
    {"compat"},
    {"analysis", "core"},  # import paths of brutus
    {"__init__", "cli"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
# where two rooms of one floor meet, only in this direction
NEIGHBOURS = {("models", "dust"), ("catalog", "models"), ("models", "priors"), ("cluster", "star")}


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def module(path: Path) -> str:
    parts = ("brutax", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(ROOT.rglob("*.py"))
MODULES = {module(path): path for path in FILES}


def whole(name: str) -> str | None:
    """The module of brutax that a dotted name is, or lies in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def imported_names(path: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it, by statement or by a string.

    A string counts if it is the path of a module (`import_module("brutax.infer")`), whatever is
    done with it; `import_module` itself may only be given a plain string or a package that is
    not brutax (`data.need`).
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith("brutax.") and node.value in MODULES:
                found.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            first = node.values[0]
            text = first.value if isinstance(first, ast.Constant) else ""
            if str(text).startswith("brutax.") and module(path) != "brutax":
                raise AssertionError(f"{path}: a module's name is put together: {text}...")
    return found


def imports(path: Path) -> set[str]:
    """Modules of brutax that a file imports."""
    return {name for x in imported_names(path) if (name := whole(x)) and name != module(path)}


def rooms(path: Path) -> set[str]:
    return {(name.split(".") + ["__init__"])[1] for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    here = room(path)
    assert here in LEVEL, f"{here} has no floor"
    for other in rooms(path) - {here}:
        down = LEVEL[other] < LEVEL[here] or (here, other) in NEIGHBOURS
        same_top = here == "cli" and other == "__init__"  # the command line is a user
        assert down or same_top, f"{path.relative_to(ROOT)} imports brutax.{other}"


def test_every_floor_is_a_room():
    there = {room(path) for path in FILES}
    assert there == set(LEVEL)


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of nodes that reach each other (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = set()
            while node not in group:
                group.add(stack.pop())
            found.append(group)

    for node in edges:
        if node not in index:
            visit(node)
    return [group for group in found if len(group) > 1]


def test_no_circles_between_rooms():
    edges = {}
    for path in FILES:
        if room(path) != "cli":
            edges.setdefault(room(path), set()).update(rooms(path) - {room(path)})
    assert circles(edges) == []


def test_no_circles_between_files():
    assert circles({name: imports(path) - {"brutax"} for name, path in MODULES.items()}) == []


def test_circles_are_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert circles(edges) == [{"b", "c"}]


def test_plotting_is_imported_by_few():
    for path in FILES:
        if room(path) not in ("plotting", "cli", "compat"):
            assert "plotting" not in rooms(path), path


def test_solver_knows_no_files():
    for path in FILES:
        if room(path) == "solver":
            text = path.read_text()
            assert "h5py" not in text and "open(" not in text, path


def run(code: str) -> dict:
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def test_import_leaves_jax_alone():
    code = """
import json, os, jax
before, env = dict(jax.config.values), dict(os.environ)
import brutax
from jax._src import xla_bridge
print(json.dumps({
    "config": all(jax.config.values[k] == v for k, v in before.items()),
    "env": dict(os.environ) == env,
    "backends": len(xla_bridge._backends),
}))
"""
    assert run(code) == {"config": True, "env": True, "backends": 0}


def test_import_needs_little():
    code = """
import json, sys
import jax, equinox, h5py, numpy, scipy.special
before = {name.split(".")[0] for name in sys.modules}
import brutax
after = {name.split(".")[0] for name in sys.modules}
print(json.dumps(sorted(x for x in after - before - set(sys.stdlib_module_names))))
"""
    assert set(run(code)) <= {"brutax", "jaxtyping"}
