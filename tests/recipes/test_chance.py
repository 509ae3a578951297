"""What a comparison checks is either a property, held against a number, or says whether it is more than chance."""

import ast
from pathlib import Path

import pytest

import linmap

RECIPES = Path(linmap.__file__).parent / "recipes"
CHECKS = [
    pytest.param(call, id=f"{path.parent.name}:{call.lineno}")
    for path in sorted(RECIPES.rglob("*.py"))
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Check"
]


def is_fixed(node: ast.expr) -> bool:
    """A number, or a name in capitals."""
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id.isupper())


@pytest.mark.parametrize("call", CHECKS)
def test_what_compares_two_measurements_says_whether_it_is_chance(call: ast.Call) -> None:
    if len(call.args) > 4 or any(keyword.arg == "certain" for keyword in call.keywords):
        return
    compared = [node for node in ast.walk(call.args[1]) if isinstance(node, ast.Compare)]
    assert all(is_fixed(side) for node in compared for side in node.comparators), ast.unparse(call)
