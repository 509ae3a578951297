"""Mutants differ from their source in one expression, and in nothing else."""

from __future__ import annotations

import ast

import pytest

from linmap.recipes import SYSTEMS as RECIPES
from mutation.mutants import mutants, probed
from mutation.systems import SYSTEMS

SOURCE = '''
def area(x: int = 3, *, check: bool = True) -> float:
    """The 2 * 2 of it."""
    if x < 0:
        raise ValueError(f"{x + 1}")
    check_count(x, 1)
    total = (
        x @ x
        + 1
    )
    return total if check else max(x, total, key=abs)
'''


def test_every_system_has_its_files_and_tests():
    assert SYSTEMS.keys() == {system.slug for system in RECIPES.values() if system.ready}
    for system in SYSTEMS.values():
        assert all(path.is_file() for path in system.paths())
        assert all(path.exists() for path in system.tests())


def test_what_is_changed(tmp_path):
    path = tmp_path / "area.py"
    path.write_text(SOURCE)
    assert {(one.before, one.after) for one in mutants(path)} == {
        ("x @ x + 1", "x @ x - 1"),
        ("x @ x", "x * x"),
        ("1", "2"),
        ("total if check else max(x, total, key=abs)", "None"),
        ("check", "not (check)"),
        ("max(x, total, key=abs)", "min(x, total, key=abs)"),
        ("max(x, total, key=abs)", "max(x, total)"),
    }


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_other_line_moves(name):
    path = min(SYSTEMS[name].paths(), key=lambda path: path.stat().st_size)
    before = path.read_text()
    found = mutants(path)
    for one in found[:: 1 + len(found) // 4]:
        after = one.source().decode()
        assert len(after.split("\n")) == len(before.split("\n"))
        assert ast.unparse(ast.parse(after)) != ast.unparse(ast.parse(before))


def test_probes_have_the_same_value_and_tell_where_a_program_was(tmp_path):
    path = tmp_path / "area.py"
    path.write_text(SOURCE.replace("@", "*"))
    reached: set[int] = set()
    places = dict(enumerate(mutants(path)))
    for text in (path.read_bytes(), probed(path, places)):
        space = {"__reached__": reached.add, "check_count": lambda *_: None}
        exec(text, space)
        assert space["area"](4) == 17
    assert {places[number].before for number in places.keys() - reached} == {"max(x, total, key=abs)"}
