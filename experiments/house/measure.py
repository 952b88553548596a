"""Size and structure of a checkout: files and lines, flat folders, floors, circles, comments and docstrings.

python experiments/house/measure.py [CHECKOUT ...]     (one column a checkout; this one by default)
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "wavlm_lightning"


def docstring_lines(tree: ast.Module) -> int:
    """Lines of docstrings, those below attributes of a class or module included."""
    found = set()
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            value = getattr(statement, "value", None)
            if isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                found |= set(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    return len(found)


def comment_lines(text: str) -> int:
    """Lines that carry a comment."""
    return sum(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline))


def modules(root: Path) -> dict[str, Path]:
    """Files of the package by dotted name."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((root / PACKAGE).rglob("*.py"))
    }


def graph(files: dict[str, Path]) -> dict[str, set[str]]:
    """By module, the modules of ours that it imports anywhere."""
    edges = {}
    for name, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= inner & files.keys() or {node.module}
        edges[name] = (found & files.keys()) - {name}
    return edges


def circles(edges: dict[str, set[str]]) -> int:
    """Groups of files that import each other."""
    reach = {}
    for start in edges:
        seen: set[str] = set()
        pending = [*edges[start]]
        while pending:
            if (name := pending.pop()) not in seen:
                seen.add(name)
                pending += edges[name]
        reach[start] = seen
    return len({frozenset(b for b in reach[a] if a in reach[b]) for a in edges if a in reach[a]})


def floors(edges: dict[str, set[str]], package: str) -> tuple[int, int]:
    """Longest chain of imports inside a package, in files, and the number of its arrows."""
    inside = {a: {b for b in edges[a] if b.startswith(package + ".")} for a in edges if a.startswith(package + ".")}
    height: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...] = ()) -> int:
        if name not in height:
            height[name] = 1 + max((floor(b, (*above, name)) for b in inside[name] if b not in above), default=0)
        return height[name]

    return max((floor(name) for name in inside), default=0), sum(map(len, inside.values()))


def rows(root: Path) -> Iterator[tuple[str, str]]:
    """All figures of a checkout, as (name, value)."""
    files = modules(root)
    texts = {name: path.read_text() for name, path in files.items()}
    length = {name: len(text.splitlines()) for name, text in texts.items()}
    total = sum(length.values())
    yield "product: files / lines", f"{len(files)} / {total:,}"
    by_package: dict[str, list[int]] = {}
    for name, path in files.items():
        folders = path.relative_to(root / PACKAGE).parts[:-1]
        by_package.setdefault(folders[0] if folders else "", []).append(length[name])
    for package, lengths in sorted(by_package.items()):
        yield f"{package or '(top level)'}: files / lines", f"{len(lengths)} / {sum(lengths):,}"
    flat = Counter(path.parent.relative_to(root).as_posix() for path in files.values())
    yield "largest flat folder", "{} ({} files)".format(*flat.most_common(1)[0])
    edges = graph(files)
    yield (
        "cli: lines / floors / arrows",
        "{:,} / {} / {}".format(
            sum(length[name] for name in files if name.startswith(f"{PACKAGE}.cli")), *floors(edges, f"{PACKAGE}.cli")
        ),
    )
    yield "circles of imports", str(circles(edges))
    some = [lines for lines in length.values() if lines > 5]
    longest = max(length, key=lambda name: length[name])
    yield "median file / longest file", f"{statistics.median(some):g} / {length[longest]} ({longest})"
    comments = sum(comment_lines(text) for text in texts.values())
    documented = sum(docstring_lines(ast.parse(text)) for text in texts.values())
    yield "comment / docstring lines per 100", f"{100 * comments / total:.1f} / {100 * documented / total:.1f}"
    tests = [*(root / "tests").rglob("*.py")]
    yield "tests: files / lines", f"{len(tests)} / {sum(len(path.read_text().splitlines()) for path in tests):,}"


def main() -> None:
    """Print a Markdown table."""
    roots = [Path(word) for word in sys.argv[1:]] or [Path(__file__).resolve().parents[2]]
    columns = [dict(rows(root)) for root in roots]
    names = list(dict.fromkeys(name for column in columns for name in column))
    print("| |" + " |" * len(roots))
    print("|---|" + "---|" * len(roots))
    for name in sorted(names, key=lambda name: ": files / lines" in name and not name.startswith(("product", "tests"))):
        print(f"| {name} | " + " | ".join(column.get(name, "-") for column in columns) + " |")


if __name__ == "__main__":
    main()
