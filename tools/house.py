"""Measures how easy the code of brutax is to live in: `python tools/house.py [--list]`.

Prints, from the source alone (nothing is imported):

- the share of `Any` among the annotations of arguments, by room. Counted is every annotated
  parameter of every function, method and nested function but `self` and `cls`; it is `Any` where
  the whole annotation is `Any`, `Any | None` or `Optional[Any]`, also as the type of `*args` and
  `**kwargs`. `dict[str, Any]` or `Callable[..., Any]` say something and are not counted;
- what is exported (named in the `__init__` of a package) and has no docstring. A constant needs a
  comment on its line or above it, or a string below it; a name without one is listed;
- definitions of module level without a leading underscore that no `__init__` exports, and those
  among them that no other file names (of the package, its tests, benchmarks and training);
- words that have to be decoded, in comments and docstrings (see CONTRIBUTING.md). Text between
  backticks is code and not counted; messages of errors and logs are not looked at;
- the number of named parameters of the doors;
- lines by room: all, and those of code, without blank lines, comments and docstrings.

`--list` also names each offender with its place.
"""

import argparse
import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1] / "brutax"
NARROW = ("priors", "models", "infer")  # rooms in which arguments should say what they are

# what each pattern stands for is in CONTRIBUTING.md, with what to write instead
_DIVISORS = r"(?:its|their|the) (?:own )?(?:errors?|widths?|sigma|deviations?|total|number|sum)"
WORDS = {
    "over (divided by)": rf"\bover (?:{_DIVISORS}|(?:that|those) (?:at|of|as))\b",
    "deviation (standard deviation)": r"(?:standard|absolute)\s+deviations?\b|\b(deviations?)\b",
    "told": r"\btold\b",
    "seen": r"\bseen\b",
    "lit": r"\blit\b",
    "worth": r"\bworth\b",
    "wanting": r"\bwanting\b",
    "honest": r"\bhonest(?:y|ly)?\b",
    "balance": r"\bbalanc(?:e|es|ed|ing)\b",
    "quick": r"\bquick(?:ly|er)?\b",
    "lot": r"\blots?\b",
    "shelf": r"\bshel(?:f|ves)\b",
    "lanes": r"\blanes?\b",
    "custom": r"\bcustom\b",
    "gatherings": r"\bgatherings?\b",
    "elite": r"\belite\b",
    "believed": r"\bbelie(?:ve|ved|f|fs)\b",
    "heard": r"\bheard\b",
}

# the calls that a user meets first
DOORS = (
    "brutax.fit",
    "brutax.read_stars",
    "brutax.load",
    "brutax.mock_catalog",
    "brutax.star.fit",
    "brutax.star.problem",
    "brutax.cluster.fit",
    "brutax.cluster.problem",
    "brutax.sightline.fit",
    "brutax.sightline.problem",
    "brutax.zeropoints.fit",
    "brutax.zeropoints.measure",
    "brutax.infer.fit",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Export(NamedTuple):
    """A public name and where it is defined."""

    name: str  # as a user writes it: brutax.models.StarGrid
    path: Path
    node: ast.stmt | None  # None: a module
    documented: bool

    @property
    def place(self) -> str:
        return place(self.path, self.node.lineno if self.node is not None else 1)


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT.parent)}:{line}"


@cache
def files() -> tuple[Path, ...]:
    return tuple(sorted(ROOT.rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def module_path(name: str) -> Path | None:
    """The file of a module of brutax."""
    base = ROOT.parent / name.replace(".", "/")
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


# arguments ---------------------------------------------------------------------------------------


def arguments(function: Function) -> list[ast.arg]:
    a = function.args
    given = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
    return [x for x in given if x is not None and x.arg not in ("self", "cls")]


def is_any(annotation: ast.expr) -> bool:
    text = ast.unparse(annotation).strip("'\"")
    parts = {part.strip() for part in text.split("|")}
    return parts - {"None"} == {"Any"} or text in ("Optional[Any]", "typing.Any")


def any_shares() -> dict[str, tuple[int, int]]:
    """By room: annotated arguments that are `Any`, and all annotated ones."""
    counts: dict[str, list[int]] = {}
    for path, arg in annotated():
        row = counts.setdefault(room(path), [0, 0])
        assert arg.annotation is not None
        row[0] += is_any(arg.annotation)
        row[1] += 1
    return {name: (row[0], row[1]) for name, row in sorted(counts.items())}


def annotated() -> Iterator[tuple[Path, ast.arg]]:
    for path in files():
        for node in ast.walk(tree(path)):
            if isinstance(node, Function):
                for arg in arguments(node):
                    if arg.annotation is not None:
                        yield path, arg


def share(counts: dict[str, tuple[int, int]], rooms: tuple[str, ...]) -> float:
    """`Any` among the annotated arguments of some rooms."""
    chosen = [counts[name] for name in rooms if name in counts]
    return sum(x for x, _ in chosen) / max(sum(n for _, n in chosen), 1)


# exports -----------------------------------------------------------------------------------------


def exports() -> list[Export]:
    """Names that the `__init__` of the package, or of a room, makes public."""
    found = []
    for path in files():
        if path.name != "__init__.py":
            continue
        package = ".".join(path.parent.relative_to(ROOT.parent).parts)
        for node in tree(path).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    name = alias.asname or alias.name
                    if not name.startswith("_"):
                        found.append(resolve(f"{package}.{name}", node.module, alias.name))
            elif isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                found.append(Export(f"{package}.{node.name}", path, node, has_doc(path, node)))
    return [export for export in found if export is not None]


def resolve(public: str, module: str, name: str) -> Export | None:
    """Follows imports to where a name is defined; None if that is outside brutax."""
    while module.startswith("brutax"):
        inner = module_path(f"{module}.{name}")
        path = module_path(module)
        if path is None:
            return None
        node = next((x for x in tree(path).body if name in names_of(x)), None)
        if node is None:
            return inner and Export(public, inner, None, bool(ast.get_docstring(tree(inner))))
        if not isinstance(node, ast.ImportFrom):
            return Export(public, path, node, has_doc(path, node))
        alias = next(a for a in node.names if (a.asname or a.name) == name)
        if node.module is None:
            return None
        if module_path(f"{node.module}.{alias.name}") == inner is not None:
            return Export(public, inner, None, bool(ast.get_docstring(tree(inner))))
        module, name = node.module, alias.name
    return None


def names_of(node: ast.stmt) -> set[str]:
    """Names that a statement of module level defines."""
    if isinstance(node, Function | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.Assign):
        return {x.id for t in node.targets for x in ast.walk(t) if isinstance(x, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


def has_doc(path: Path, node: ast.stmt) -> bool:
    if isinstance(node, Function | ast.ClassDef):
        return bool(ast.get_docstring(node))
    lines = path.read_text().splitlines()
    above = lines[node.lineno - 2].strip() if node.lineno > 1 else ""
    own = "\n".join(lines[node.lineno - 1 : node.end_lineno])
    body = tree(path).body
    after = body[body.index(node) + 1] if node is not body[-1] else None
    string = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return above.startswith("#") or "#" in own or string


def unexported() -> list[tuple[str, Path, int]]:
    """Definitions without an underscore that no `__init__` names, in modules without one."""
    public = {(export.path, export.node) for export in exports()}
    out = []
    for path in files():
        for node in tree(path).body:
            named = isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
            if named and (path, node) not in public:
                out.append((node.name, path, node.lineno))
    return out


def used_elsewhere(name: str, path: Path) -> bool:
    """Whether any other file names something."""
    return any(name in identifiers(other) for other in everywhere() if other != path)


@cache
def everywhere() -> tuple[Path, ...]:
    top = ROOT.parent
    more = [
        x for folder in ("tests", "benchmarks", "training") for x in (top / folder).rglob("*.py")
    ]
    return (*files(), *more)


@cache
def identifiers(path: Path) -> frozenset[str]:
    """Names, attributes, imported names and words of strings in a file."""
    return frozenset(re.findall(r"[A-Za-z_]\w*", path.read_text()))


def definitions() -> int:
    """Functions and classes of module level without an underscore."""
    return sum(
        isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
        for path in files()
        for node in tree(path).body
    )


# words -------------------------------------------------------------------------------------------


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and docstrings of a file, each with its first line; code in backticks is blank."""
    text = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], re.sub(r"`[^`]*`", " ", token.string)
    for node in ast.walk(tree(path)):
        for string in docstrings(node):
            yield string.lineno, re.sub(r"`[^`]*`", " ", str(string.value))


def docstrings(node: ast.AST) -> Iterator[ast.Constant]:
    """The docstring of a module, class or function."""
    if isinstance(node, ast.Module | ast.ClassDef | Function) and node.body:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            if isinstance(first.value.value, str):
                yield first.value


def words() -> list[tuple[str, str, str]]:
    """Each word found that has to be decoded: its kind, its place, and the text around it."""
    out = []
    for path in files():
        for line, text in prose(path):
            for word, pattern in WORDS.items():
                for match in re.finditer(pattern, text, re.IGNORECASE):
                    if match.re.groups and match.group(1) is None:
                        continue  # the right use of the word
                    where = place(path, line + text[: match.start()].count("\n"))
                    near = text[max(match.start() - 40, 0) : match.end() + 40]
                    out.append((word, where, " ".join(near.split())))
    return out


# doors and lines ---------------------------------------------------------------------------------


def doors() -> dict[str, int]:
    """Named parameters of each door that exists."""
    known = {export.name: export for export in exports()}
    out = {}
    for name in DOORS:
        export = known.get(name)
        node = export.node if export else method("brutax.catalog.FitResult", name, known)
        if isinstance(node, Function):
            a = node.args
            given = [*a.posonlyargs, *a.args, *a.kwonlyargs]
            out[name] = sum(x.arg not in ("self", "cls") for x in given)
    return out


def method(cls: str, name: str, known: dict[str, Export]) -> ast.AST | None:
    """`brutax.load` is a method of a class."""
    node = known[cls].node if cls in known else None
    wanted = name.rpartition(".")[2]
    if name.count(".") > 1 or not isinstance(node, ast.ClassDef):
        return None
    return next((x for x in node.body if isinstance(x, Function) and x.name == wanted), None)


def lines() -> dict[str, tuple[int, int, int]]:
    """By room: files, lines, and lines of code."""
    out: dict[str, list[int]] = {}
    for path in files():
        text = path.read_text()
        docs = set()
        for node in ast.walk(tree(path)):
            for string in docstrings(node):
                docs |= set(range(string.lineno, (string.end_lineno or string.lineno) + 1))
        code = [
            number
            for number, line in enumerate(text.splitlines(), start=1)
            if line.strip() and not line.strip().startswith("#") and number not in docs
        ]
        row = out.setdefault(room(path), [0, 0, 0])
        for k, more in enumerate((1, len(text.splitlines()), len(code))):
            row[k] += more
    return {name: (row[0], row[1], row[2]) for name, row in sorted(out.items())}


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--list", action="store_true", help="name each offender with its place")
    listed = given.parse_args().list

    counts = any_shares()
    print("arguments annotated as Any")
    for name, (some, total) in counts.items():
        print(f"  {name:12} {some:4} of {total:4}  {100 * some / total:5.1f} %")
    together = " + ".join(NARROW)
    print(f"  {together}: {100 * share(counts, NARROW):.1f} %")
    if listed:
        for path, arg in annotated():
            if room(path) in NARROW and arg.annotation is not None and is_any(arg.annotation):
                print(f"    {place(path, arg.lineno)}  {arg.arg}")

    bare = [export for export in exports() if not export.documented]
    print(f"exported names without docstring: {len(bare)} of {len(exports())}")
    for export in bare:
        print(f"    {export.place}  {export.name}")

    free = unexported()
    print(f"definitions without underscore exported nowhere: {len(free)} of {definitions()}")
    alone = [one for one in free if not used_elsewhere(one[0], one[1])]
    print(f"  of these, named in no other file: {len(alone)}")
    if listed:
        for name, path, line in alone:
            print(f"    {place(path, line)}  {name}")

    found = words()
    number = Counter(word for word, _, _ in found)
    print("words to be decoded, in comments and docstrings")
    for word in WORDS:
        print(f"  {word:32} {number[word]:4}")
        if listed:
            for _, where, near in (x for x in found if x[0] == word):
                print(f"    {where}  ...{near}...")

    print("named parameters of the doors")
    for name, n in doors().items():
        print(f"  {name:28} {n:3}")

    print("lines: files, all, code")
    table = lines()
    for name, row in table.items():
        print(f"  {name:12} {row[0]:4} {row[1]:6} {row[2]:6}")
    total = [sum(row[k] for row in table.values()) for k in range(3)]
    print(f"  {'all':12} {total[0]:4} {total[1]:6} {total[2]:6}")


if __name__ == "__main__":
    main()
