"""Mutants: one small change each in a line of a function, written into its source so that no other line moves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
PAIRS = [("max", "min"), ("amax", "amin"), ("argmax", "argmin"), ("sin", "cos"), ("any", "all"), ("sum", "mean")]
NAMES = dict(PAIRS) | {b: a for a, b in PAIRS}
NOT_SEEN = ("device", "strict")
"""Options that may be left out: where all is on one device, and where lengths are equal, as they are."""
NOT_CORE = ("__repr__", "extra_repr", "__setstate__", "__getstate__", "__sklearn_tags__")


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    path: Path
    line: int
    start: int
    """Where the expression that is replaced begins in the file, in bytes."""
    end: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}: {self.before}  ->  {self.after}"

    def source(self) -> bytes:
        """The file with the change; lines that the expression took stay as many."""
        whole = self.path.read_bytes()
        lines = whole[self.start : self.end].count(b"\n")
        return whole[: self.start] + f"({self.after}{chr(10) * lines})".encode() + whole[self.end :]


def probed(path: Path, places: dict[int, Mutant]) -> bytes:
    """The file with an expression in each place that calls `__reached__` with its number and has the same value."""
    insertions = []
    for number, one in places.items():
        length = one.end - one.start
        insertions.append((one.start, 1, -length, b"(__reached__(%d) or (" % number))
        insertions.append((one.end, 0, length, b"))"))
    text, parts, last = path.read_bytes(), [], 0
    for at, _, _, inserted in sorted(insertions, key=lambda one: one[:3]):
        parts += [text[last:at], inserted]
        last = at
    return b"".join([*parts, text[last:]])


def mutants(path: Path) -> list[Mutant]:
    """All mutants of the functions of a file.

    Left out: what is no equation (docstrings, annotations, decorators, defaults, `raise`, `assert`, text), checks
    of arguments (a condition of which nothing but an error follows, a call of `check...`), and how objects are shown.
    """
    text = path.read_text()
    starts = [0]
    for line in text.encode().split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    found = []
    for node, changed in _changes(ast.parse(text)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        found.append(Mutant(path, node.lineno, begin, end, ast.unparse(node), changed))
    return found


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """The expressions of functions that can be replaced, each with what replaces it."""
    for function in _outermost_functions(tree):
        for node in _kept(function):
            if isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
                for changed in _replaced(node):
                    yield node, changed
            yield from _of_statement(node)


def _of_statement(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """A value that is not returned, a condition that is negated, a sum that is subtracted."""
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield node.value, "None"
    for test in _conditions(node):
        if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Is | ast.IsNot | ast.Eq | ast.NotEq):
            yield test, f"not ({ast.unparse(test)})"
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        yield node.value, f"-({ast.unparse(node.value)})"


def _conditions(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        return [node.test]
    return node.ifs if isinstance(node, ast.comprehension) else []


def _outermost_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            overloaded = any("overload" in ast.unparse(one) for one in child.decorator_list)
            if child.name not in NOT_CORE and not overloaded:
                yield child
        elif isinstance(child, ast.ClassDef | ast.If):
            yield from _outermost_functions(child)


def _kept(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is below it, without what is not core."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _left_out(child):
                yield from _kept(child)


def _left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword) and node.arg in NOT_SEEN:
        return True
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Match | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.If) and not node.orelse and all(isinstance(one, ast.Raise) for one in node.body):
        return True
    if isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Constant):
            return True
        called = node.value.func if isinstance(node.value, ast.Call) else None
        name = getattr(called, "attr", getattr(called, "id", ""))
        return name.lstrip("_").startswith(("check", "warn"))
    return False


def _replaced(node: ast.expr) -> Iterator[str]:
    """What may stand in the place of an expression."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _is_text(node.left):
        yield ast.unparse(ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right))
    elif isinstance(node, ast.Compare):
        ops: list[ast.cmpop] = [COMPARISONS[type(node.ops[0])](), *node.ops[1:]]
        yield ast.unparse(ast.Compare(node.left, ops, node.comparators))
    elif isinstance(node, ast.BoolOp):
        other = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield ast.unparse(ast.BoolOp(other, node.values))
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield ast.unparse(node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield repr(not node.value) if isinstance(node.value, bool) else repr(node.value + 1)
    elif isinstance(node, ast.Call):
        yield from _calls(node)


def _calls(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Attribute) and node.func.attr in NAMES:
        other = ast.Attribute(node.func.value, NAMES[node.func.attr], ast.Load())
        yield ast.unparse(ast.Call(other, node.args, node.keywords))
    elif isinstance(node.func, ast.Name) and node.func.id in NAMES:
        yield ast.unparse(ast.Call(ast.Name(NAMES[node.func.id], ast.Load()), node.args, node.keywords))
    if node.keywords and node.keywords[-1].arg not in NOT_SEEN:
        yield ast.unparse(ast.Call(node.func, node.args, node.keywords[:-1]))
    elif len(node.args) > 1 and isinstance(node.args[-1], ast.UnaryOp | ast.Constant) and not _is_text(node.args[-1]):
        yield ast.unparse(ast.Call(node.func, node.args[:-1], []))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
