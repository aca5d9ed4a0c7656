"""The documented public objects of a Python installation, read from its source: nothing is imported or run."""

import ast
import logging
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_TESTS = frozenset({"test", "tests", "testing", "idle_test", "conftest"})
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Entry:
    """One documented object: `name` is its full dotted name, `kind` is module, class, function or method."""

    name: str
    kind: str
    module: str
    signature: str
    docstring: str


def standard_library() -> Path:
    """The folder of this installation's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def installed_packages() -> list[Path]:
    """The folders in which this environment's packages are installed."""
    return sorted({Path(sysconfig.get_path(scheme)) for scheme in ("purelib", "platlib")})


def entries(root: Path) -> list[Entry]:
    """Every public object under `root` that has a docstring, ordered by name; of two with one name, the first.

    Private names (a leading underscore), test packages and folders that are no packages are left out. Sources that this
    Python cannot parse are skipped and counted in one log line.
    """
    found: dict[str, Entry] = {}
    skipped = 0
    for module, path in sorted(_modules(root, "")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            skipped += 1
            continue
        for entry in _documented(tree, module):
            found.setdefault(entry.name, entry)
    if skipped:
        log.info("%s: skipped %d source files that Python cannot parse", root, skipped)
    return [found[name] for name in sorted(found)]


def _modules(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        name = path.name.removesuffix(".py")
        if not name.isidentifier() or name.startswith("_") or name in _TESTS or name.startswith("test_"):
            continue
        if path.suffix == ".py" and path.is_file():
            yield prefix + name, path
        elif path.is_dir() and (path / "__init__.py").is_file():
            yield prefix + name, path / "__init__.py"
            yield from _modules(path, f"{prefix}{name}.")


def _documented(tree: ast.Module, module: str) -> Iterator[Entry]:
    if docstring := ast.get_docstring(tree):
        yield Entry(module, "module", module, "", _clean(docstring))
    pending: list[tuple[str, bool, ast.stmt]] = [(module, False, statement) for statement in reversed(tree.body)]
    while pending:
        owner, in_class, node = pending.pop()
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            pending += [(owner, in_class, statement) for statement in reversed(_branches(node))]
        if not isinstance(node, _Definition) or node.name.startswith("_"):
            continue
        name = f"{owner}.{node.name}"
        is_class = isinstance(node, ast.ClassDef)
        if docstring := ast.get_docstring(node):
            kind = "class" if is_class else "method" if in_class else "function"
            yield Entry(name, kind, module, _signature(node), _clean(docstring))
        if is_class:
            pending += [(name, True, statement) for statement in reversed(node.body)]


def _branches(node: ast.If | ast.Try | ast.With) -> list[ast.stmt]:
    """What may define names at the same level: conditional imports guard many definitions of the standard library."""
    if isinstance(node, ast.Try):
        handlers = [statement for handler in node.handlers for statement in handler.body]
        return [*node.body, *handlers, *node.orelse, *node.finalbody]
    return [*node.body, *node.orelse] if isinstance(node, ast.If) else node.body


def _signature(node: _Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def _clean(docstring: str) -> str:
    # A source may spell NUL or a lone surrogate with an escape; neither survives outside Python's own strings.
    return re.sub(r"[\x00\ud800-\udfff]", "\ufffd", docstring)
