"""Flags that are an estimator's own parameters: names, types, defaults and help come from its source.

The source is read, not imported, so that `linmap fit SYSTEM --help` answers at once. A parameter whose type no command
line can write (a splitter, a module) is left out; where the command needs another default, `OTHER` says why.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union, get_args, get_origin

import linmap
from linmap.errors import ArgumentTypeError

SIMPLE = (int, float, str, bool, type(None), Path)
KNOWN: dict[str, Any] = vars(builtins) | vars(typing) | vars(collections.abc) | vars(pathlib)
Given = tuple[str, ast.expr | None, ast.expr | None, str]
"""Name, annotation, default, and what stands below a field."""
LISTS = (collections.abc.Sequence, collections.abc.Iterable, list)


class _Anything(type):
    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, _: Any) -> type:
        return cls

    def __call__(cls, *_: Any, **__: Any) -> type:
        return cls


class Foreign(metaclass=_Anything):
    """Stands for what other packages define, which is not imported."""


@dataclass(frozen=True)
class Other:
    """A default that the command line does not share with the estimator."""

    default: Any
    reason: str


@dataclass(frozen=True)
class Parameter:
    """One parameter of an estimator."""

    name: str
    type: Any
    """What the command line can write of its annotation; None where that is nothing."""
    default: Any
    """`dataclasses.MISSING` where it has to be given."""
    help: str


class Derived:
    """Base of a dataclass of flags that takes in the parameters of an estimator.

    >>> @flags
    ... class Fit(Derived):  # doctest: +SKIP
    ...     OF = "linmap.signals.acm.classifier:ACMClassifier"
    ...     LEAVE = ("inner_cv", "random_state")
    ...     OTHER = {"n_jobs": Other(2, "the search is most of the time")}
    ...     folds: int = 3
    ...     '''Inner folds of the search.'''
    >>> ACMClassifier(**settings.options(), random_state=job.seed)  # doctest: +SKIP

    A field that the class declares itself stands in the place of the parameter of the same name, and `options` hands it
    on too; its default is the estimator's, or in `OTHER`.
    """

    OF: ClassVar[str] = ""
    """`module:Name` of an estimator, a dataclass or a function."""
    LEAVE: ClassVar[tuple[str, ...]] = ()
    """Parameters that are no flags."""
    OTHER: ClassVar[Mapping[str, Other]] = {}
    """Other defaults, with their reasons."""
    NAMES: ClassVar[Mapping[str, str]] = {}
    """Flags by parameter, where a flag has another name; `Recipe.flag_of` takes the same."""

    def options(self, kind: type[Derived] | None = None, /, **more: Any) -> dict[str, Any]:
        """The values of the estimator's parameters, and `more`.

        Parameters
        ----------
        kind
            A class that this one inherits from, where its estimator's parameters are wanted: flags of training that
            several systems share, for example.
        **more
            What the estimator gets beside them.
        """
        kind = type(self) if kind is None else kind
        taken = [parameter.name for parameter in parameters(kind.OF) if parameter.name not in kind.LEAVE]
        named = {name: kind.NAMES.get(name, name) for name in taken}
        return {name: getattr(self, flag) for name, flag in named.items() if hasattr(self, flag)} | more

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def flags(kind: type[Derived]) -> Any:
    """Make a dataclass of a subclass of `Derived`: the estimator's parameters first, then its own fields.

    Raises
    ------
    TypeError
        If `LEAVE`, `OTHER` or `NAMES` names a parameter that neither the estimator has nor that of a base.
    """
    import tyro

    own = inspect.get_annotations(kind)
    found = {parameter.name: parameter for parameter in parameters(kind.OF)}
    known = {one.name for part in kind.__mro__ if vars(part).get("OF") for one in parameters(part.OF)}
    for name in (*kind.LEAVE, *kind.OTHER, *kind.NAMES):
        if name not in known:
            raise ArgumentTypeError(f"{kind.__name__} names {name}, which is no parameter of {kind.OF}.")
    annotations = {}
    for name, parameter in found.items():
        flag = kind.NAMES.get(name, name)
        if flag in own or name in kind.LEAVE or parameter.type is None:
            continue
        default = kind.OTHER[name].default if name in kind.OTHER else parameter.default
        hint = (
            parameter.type if default is not None or type(None) in get_args(parameter.type) else parameter.type | None
        )
        annotations[flag] = Annotated[hint, tyro.conf.arg(help=_spoken(parameter.help, kind, found))]
        if default is not MISSING:
            setattr(kind, flag, field(default=_frozen(default)))
    kind.__annotations__ = annotations | own
    return dataclass(frozen=True, kw_only=True)(kind)


def _spoken(help: str, kind: type[Derived], known: Collection[str]) -> str:
    """A parameter's words with `other_parameter` as --other-parameter where that is a flag."""

    def flag(word: re.Match[str]) -> str:
        name = kind.NAMES.get(word[1], word[1])
        return f"--{name.replace('_', '-')}" if word[1] in known and word[1] not in kind.LEAVE else word[0]

    return re.sub(r"`(\w+)`", flag, help)


def named(of: str) -> Any:
    """What `module:NAME` stands for, from the module's source: a list of words such as `Literal["a", "b"]`."""
    module, _, name = of.partition(":")
    return _Source.of(module).named(name)


@cache
def parameters(of: str) -> tuple[Parameter, ...]:
    """The parameters of `module:Name`, from its source.

    Raises
    ------
    LookupError
        If the module defines no such class or function.
    """
    module, _, name = of.partition(":")
    source = _Source.of(module)
    node = source.definitions.get(name)
    if isinstance(node, ast.FunctionDef):
        return source.parameters(_arguments(node), _numpy_docs(node))
    if isinstance(node, ast.ClassDef):
        return _of_class(source, node)
    if name in source.imported:
        return parameters(":".join(source.imported[name]))
    raise LookupError(f"{module} defines no {name}.")


def _of_class(source: _Source, node: ast.ClassDef) -> tuple[Parameter, ...]:
    """Of its constructor, or of those of its bases that are linmap's."""
    helps = _numpy_docs(node)
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return source.parameters(_arguments(part)[1:], _numpy_docs(part) | helps)
    inherited = {one.name: one for base in source.bases(node) for one in parameters(base)}
    own = source.parameters(_fields(node), helps) if _is_dataclass(node) else ()
    found = inherited | {one.name: one for one in own}
    return tuple(replace(one, help=helps.get(one.name, one.help)) for one in found.values())


def documentation(of: str) -> str:
    """The docstring of the function or class `module:name`, from its source; "" where there is none."""
    module, _, name = of.partition(":")
    if module.partition(".")[0] != "linmap":
        return ""
    try:
        source = _Source.of(module)
    except FileNotFoundError:
        return ""
    if name in source.imported:
        return documentation(":".join(source.imported[name]))
    node = source.definitions.get(name)
    return (node and ast.get_docstring(node)) or ""


def helps(kind: type) -> dict[str, str]:
    """By field, what stands below it in the source of a dataclass of flags and of those that it extends."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if part.__module__.partition(".")[0] == "linmap":
            node = _Source.of(part.__module__).definitions.get(part.__name__)
            if isinstance(node, ast.ClassDef):
                found |= {name: said for name, _, _, said in _fields(node) if said}
    return found


def writable(annotation: Any) -> Any:
    """What of a type the command line can write: sequences become tuples, members of unions that it cannot are left
    out, and so is what another member takes in (text beside words, int beside float); None where nothing is left."""
    if annotation in SIMPLE:
        return annotation
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is typing.Literal:
        return annotation
    if origin in (Union, types.UnionType):
        kept = [found for part in inner if (found := writable(part)) is not None]
        words = tuple[str, ...] in kept or any(get_origin(part) is typing.Literal for part in kept)
        needless = {type(None), *([str] if words else []), *([int] if float in kept else [])}
        kept = [part for part in kept if part not in needless] + [type(None)] * (type(None) in inner)
        return Union[tuple(kept)] if kept and kept != [type(None)] else None  # noqa: UP007 (made of parts)
    if origin in LISTS and len(inner) == 1:
        part = writable(inner[0])
        return None if part is None else tuple[part, ...]
    if origin is tuple and all(part is ... or writable(part) is not None for part in inner):
        return annotation
    return None


def _frozen(default: Any) -> Any:
    """Lists and ranges as tuples, as the command line gives them."""
    return tuple(default) if isinstance(default, list | range) else default


def _arguments(node: ast.FunctionDef) -> list[Given]:
    plain, defaults = [*node.args.posonlyargs, *node.args.args], node.args.defaults
    padded = [None] * (len(plain) - len(defaults)) + list(defaults)
    pairs = [*zip(plain, padded, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    return [(argument.arg, argument.annotation, default, "") for argument, default in pairs]


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _fields(node: ast.ClassDef) -> list[Given]:
    """Of a dataclass; what each is for stands below it."""
    found = []
    for part, after in zip(node.body, [*node.body[1:], None], strict=True):
        of_class = isinstance(part, ast.AnnAssign) and ast.unparse(part.annotation).startswith("ClassVar")
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and not of_class:
            below = after.value if isinstance(after, ast.Expr) else None
            said = below.value if isinstance(below, ast.Constant) and isinstance(below.value, str) else ""
            found.append((part.target.id, part.annotation, part.value, " ".join(said.split())))
    return found


def _numpy_docs(node: ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    """By name, what the section `Parameters` of a NumPy docstring says."""
    lines = (ast.get_docstring(node) or "").splitlines()
    try:
        start = lines.index("Parameters") + 2
    except ValueError:
        return {}
    helps: dict[str, str] = {}
    names: list[str] = []
    for line, after in zip(lines[start:], [*lines[start + 1 :], ""], strict=True):
        if after.startswith("---"):
            break
        if line and not line.startswith(" "):
            names = [name.strip().lstrip("*") for name in line.partition(":")[0].split(",")]
        elif line.strip():
            for name in names:
                helps[name] = f"{helps.get(name, '')} {line.strip()}".strip()
    return helps


class _Source:
    """A module of linmap as its source says, for what its annotations and defaults name."""

    def __init__(self, module: str, path: Path) -> None:
        self.module = module
        tree = ast.parse(path.read_text(encoding="utf-8"))
        body = [part for node in tree.body for part in (node.body if isinstance(node, ast.If) else [node])]
        self.definitions = {n.name: n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        self.assigned: dict[str, ast.expr] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        for node in body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._assign(target, node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self.assigned[node.target.id] = node.value
            elif isinstance(node, ast.ImportFrom) and node.module:
                self.imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.assigned[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, part in zip(target.elts, value.elts, strict=True):
                self._assign(one, part)

    @staticmethod
    @cache
    def of(module: str) -> _Source:
        root = Path(linmap.__file__).parent.joinpath(*module.split(".")[1:])
        path = root.with_suffix(".py")
        return _Source(module, path if path.exists() else root / "__init__.py")

    def bases(self, node: ast.ClassDef) -> list[str]:
        """The bases of a class that are linmap's, as `module:Name`."""
        names = [base.id for base in node.bases if isinstance(base, ast.Name)]
        places = [(self.module, name) if name in self.definitions else self.imported.get(name) for name in names]
        return [":".join(place) for place in places if place is not None and place[0].partition(".")[0] == "linmap"]

    def parameters(self, given: list[Given], helps: Mapping[str, str]) -> tuple[Parameter, ...]:
        """What stands in a signature or in the body of a dataclass."""
        return tuple(
            Parameter(
                name,
                writable(self.value(annotation)) if annotation is not None else None,
                MISSING if default is None else self.value(default),
                helps.get(name, "") or said,
            )
            for name, annotation, default, said in given
        )

    def value(self, node: ast.expr) -> Any:
        """The value of an annotation or a default; `Foreign` for names of other packages."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = set()
        else:
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        code = compile(ast.Expression(node), self.module, "eval")
        return eval(code, {name: self.named(name) for name in names})

    def named(self, name: str) -> Any:
        """What a name of this module stands for."""
        if name in self.assigned:
            return self.value(self.assigned[name])
        if name in self.imported:
            module, original = self.imported[name]
            if module.partition(".")[0] == "linmap":
                return self.of(module).named(original)
            return KNOWN.get(original, Foreign) if module in ("typing", "collections.abc", "pathlib") else Foreign
        return Foreign if name in self.definitions else KNOWN.get(name, Foreign)
