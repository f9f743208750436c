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
    {"utils", "data"},
    {"core", "priors", "dust"},
    {"solver", "infer", "catalog"},
    {"analysis", "survey", "plotting"},
    {"__init__", "cli", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
# where two rooms of one floor meet, only in this direction
NEIGHBOURS = {("plotting", "analysis"), ("survey", "analysis"), ("core", "dust")}


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> set[str]:
    """Rooms of brutax that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "brutax":
                found.add(parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__")
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    here = room(path)
    assert here in LEVEL, f"{here} has no floor"
    for other in imports(path) - {here}:
        down = LEVEL[other] < LEVEL[here] or (here, other) in NEIGHBOURS
        same_top = here == "cli" and other == "__init__"  # the command line is a user
        assert down or same_top, f"{path.relative_to(ROOT)} imports brutax.{other}"


def test_no_circles_between_rooms():
    edges = {room(path): set() for path in FILES}
    for path in FILES:
        edges[room(path)] |= imports(path) - {room(path)}
    for start in edges:
        seen, stack = set(), list(edges[start])
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                stack.extend(edges.get(name, ()))
        assert start not in seen or start in ("__init__", "cli"), f"{start} reaches itself"


def test_plotting_is_imported_by_nobody():
    for path in FILES:
        if room(path) not in ("plotting", "cli"):
            assert "plotting" not in imports(path), path


def test_solver_knows_no_files_and_infer_no_stars():
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
