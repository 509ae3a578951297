"""The public surface: what packages name in `__all__`, held by a snapshot.

What a package of linmap names in its `__all__` is public, and changes with an entry in the changelog. All else is
internal: other modules of linmap may use it, unless its name has a leading underscore, which stays in its module.

`python tests/test_public_names.py` writes the snapshot anew.
"""

import ast
from pathlib import Path

import pytest

import linmap

ROOT = Path(linmap.__file__).parent
SNAPSHOT = Path(__file__).with_name("public_names.txt")
INTERNAL = ("cli", "recipes", "report")
"""Packages of the command line, which is public as `docs/cli.md` says."""
PACKAGES = [path for path in sorted(ROOT.rglob("__init__.py")) if path.relative_to(ROOT).parts[0] not in INTERNAL]
MODULES = sorted(ROOT.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exported(path: Path) -> list[str]:
    """The names in `__all__`, none without it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def bound(path: Path) -> set[str]:
    """The names that a module defines or imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def snapshot() -> str:
    return "".join(f"{dotted(path)}.{name}\n" for path in PACKAGES for name in sorted(exported(path)))


def test_the_public_names_are_those_of_the_snapshot() -> None:
    assert snapshot().splitlines() == SNAPSHOT.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", PACKAGES, ids=dotted)
def test_a_package_exports_what_is_there_and_nothing_private(path: Path) -> None:
    names = exported(path)
    assert len(names) == len(set(names))
    assert set(names) <= bound(path)
    assert not [name for name in names if name.startswith("_") and name != "__version__"]


@pytest.mark.parametrize("path", PACKAGES, ids=dotted)
def test_what_a_package_imports_for_its_users_is_in_all(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{dotted(path)}.")
        for alias in node.names
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {name for name in imported - used if not name.startswith("_")} <= set(exported(path))


def test_what_has_an_underscore_stays_in_its_module() -> None:
    taken = [
        f"{dotted(path)} imports {alias.name} of {node.module}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("linmap")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert taken == []


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot(), encoding="utf-8")
