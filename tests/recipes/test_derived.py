"""Flags that are an estimator's own parameters: read right from the source, and the law of their defaults."""

import ast
import collections.abc
import importlib
import inspect
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_type_hints

import pytest

import linmap
from linmap.errors import ArgumentTypeError
from linmap.recipes import SYSTEMS, derived, load
from linmap.recipes.derived import Derived, Other, documentation, flags, parameters, writable

RECIPES = [load(slug) for slug, system in SYSTEMS.items() if system.ready]
FILES = [None, *(Path("x") / f"x{suffix}" for suffix in (".csv", ".jsonl", ".npz", ".npy", ".txt", ".tsp"))]
VERBS = [verb for recipe in RECIPES for verb in (recipe.fit, recipe.apply, recipe.unfitted, recipe.compare) if verb]


def inherited(estimator: Any) -> set[str]:
    """The fields of the bases that are other packages', which no flags are derived from."""
    bases = [base for base in getattr(estimator, "__mro__", ()) if not base.__module__.startswith("linmap.")]
    return {field.name for base in bases if is_dataclass(base) for field in fields(base)}


def flag_classes() -> list[type]:
    """Of every verb that there is, and every class of derived flags beside them."""
    found = {verb.settings(path) for verb in VERBS for path in (FILES if not isinstance(verb.flags, type) else [None])}
    return sorted(found | set(derived_classes()), key=lambda kind: (kind.__module__, kind.__qualname__))


def derived_classes(kind: type = Derived) -> list[type]:
    below = [found for part in kind.__subclasses__() for found in [part, *derived_classes(part)]]
    return [part for part in below if part.__module__.startswith("linmap.") and is_dataclass(part)]


def parts(kind: type) -> list[type[Derived]]:
    """The class and its bases that name an estimator."""
    return [part for part in kind.__mro__ if vars(part).get("OF")]


def differences(kind: type) -> dict[str, tuple[Any, Any]]:
    """The flags whose default is not the estimator's: the flag's and the estimator's."""
    own = {field.name: field.default for field in fields(kind)}
    pairs = {
        parameter.name: (own[flag], derived._frozen(parameter.default))
        for part in parts(kind)
        for parameter in parameters(part.OF)
        if (flag := part.NAMES.get(parameter.name, parameter.name)) in own and parameter.name not in part.LEAVE
    }
    return {name: (ours, theirs) for name, (ours, theirs) in pairs.items() if ours != theirs}


@pytest.mark.parametrize("kind", derived_classes(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_the_law_of_defaults(kind: type[Derived]) -> None:
    """A flag has the estimator's default, or its other default stands in `OTHER` with a reason."""
    others = {name: other for part in reversed(kind.__mro__) for name, other in vars(part).get("OTHER", {}).items()}
    differing = {name: ours for name, (ours, _) in differences(kind).items()}
    assert differing == {name: derived._frozen(others[name].default) for name in differing if name in others}
    hidden = {name for part in parts(kind) for name in part.LEAVE}
    assert set(vars(kind).get("OTHER", {})) - hidden <= set(differing), "OTHER names a default that is the same"
    assert all(other.reason for other in others.values())


@pytest.mark.parametrize("of", sorted({part.OF for kind in derived_classes() for part in parts(kind)}))
def test_what_is_read_from_the_source_is_what_python_sees(of: str) -> None:
    module, _, name = of.partition(":")
    estimator = getattr(importlib.import_module(module), name)
    signature = inspect.signature(estimator).parameters
    read = {parameter.name: parameter.default for parameter in parameters(of)}
    true = {name: MISSING if one.default is one.empty else one.default for name, one in signature.items()}
    assert list(read) == [name for name in true if name in read]
    assert set(true) - set(read) <= inherited(estimator)
    writable = {parameter.name for parameter in parameters(of) if parameter.type is not None}
    assert {name: read[name] for name in writable} == {name: true[name] for name in writable}


@pytest.mark.parametrize("kind", flag_classes(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_flag_says_what_it_is(kind: type) -> None:
    assert {field.name for field in fields(kind)} - {name for name, said in helps(kind).items() if said} == set()


def helps(kind: type) -> dict[str, str]:
    """What stands below each field in the source, or in the annotation."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if is_dataclass(part):
            (node,) = ast.parse(inspect.getsource(part)).body
            assert isinstance(node, ast.ClassDef)
            found |= {name: said for name, _, _, said in derived._fields(node)}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for told in get_args(hint)[1:]:
            found[name] = getattr(told, "help", None) or found.get(name, "")
    return found


SOURCE = '''
"""A module."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from linmap.{name}_other import RATE, Policy

Mode = Literal["fast", "slow"]
SIZE, DEPTH = 3, 2 * 4
KNOWN: tuple[str, ...] = ("a", "b")


class Estimator:
    """Learns.

    It learns much.

    Parameters
    ----------
    n, m
        How many `m`,
        and of `what`.
    mode : Mode
        Which way.

    Attributes
    ----------
    rate
        Not the rate.
    """

    def __init__(self, n: int = SIZE, m: int | None = None, mode: Mode = "fast", *, rate: float = RATE,
                 policy: Policy | None = None, rates: Sequence[float] = (1e-3, 2e-3), names: list[str] = KNOWN,
                 file: Path | str | None = None, module: torch.nn.Module | None = None,
                 dtype: torch.dtype = torch.float,
                 anything: Any = None, untyped=5, pair: tuple[int, float] = (1, 2.0), on: bool = True,
                 device: str | torch.device = "cpu", values: range | Sequence[int] = range(3)) -> None:
        """Make."""


@dataclass(frozen=True)
class Settings:
    """Of a run."""

    needed: int
    """What has to
    be given."""
    depth: int = DEPTH
    other: float = -0.5
    """Half."""


def function(first: int, second: str = "x", **more: Any) -> None:
    """Does.

    Parameters
    ----------
    first
        One.
    **more
        The rest.
    """


class Child(Estimator):
    """Learns the same.

    Parameters
    ----------
    n
        Fewer.
    """
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module of a linmap that holds `SOURCE` and what that imports."""
    name = "".join(filter(str.isalpha, request.node.name))
    (tmp_path / f"{name}.py").write_text(SOURCE.replace("{name}", name))
    (tmp_path / f"{name}_other").mkdir()
    (tmp_path / f"{name}_other" / "__init__.py").write_text(
        "from typing import Literal\n\nRATE = 0.25\nPolicy = Literal['zero', 'drop']\n"
    )
    monkeypatch.setattr(linmap, "__file__", str(tmp_path / "__init__.py"))
    return f"linmap.{name}"


def test_parameters_have_the_names_defaults_types_and_words_of_the_source(module: str) -> None:
    found = {p.name: (p.type, p.default, p.help) for p in parameters(f"{module}:Estimator")}
    assert found == {
        "n": (int, 3, "How many `m`, and of `what`."),
        "m": (int | None, None, "How many `m`, and of `what`."),
        "mode": (Literal["fast", "slow"], "fast", "Which way."),
        "rate": (float, 0.25, ""),
        "policy": (Literal["zero", "drop"] | None, None, ""),
        "rates": (tuple[float, ...], (1e-3, 2e-3), ""),
        "names": (tuple[str, ...], ("a", "b"), ""),
        "file": (Path | str | None, None, ""),
        "module": (None, None, ""),
        "dtype": (None, derived.Foreign, ""),
        "anything": (None, None, ""),
        "untyped": (None, 5, ""),
        "pair": (tuple[int, float], (1, 2.0), ""),
        "on": (bool, True, ""),
        "device": (str, "cpu", ""),
        "values": (tuple[int, ...], range(3), ""),
    }


def test_parameters_of_a_dataclass_and_of_a_function(module: str) -> None:
    found = [(p.name, p.type, p.default, p.help) for p in parameters(f"{module}:Settings")]
    assert found == [
        ("needed", int, MISSING, "What has to be given."),
        ("depth", int, 8, ""),
        ("other", float, -0.5, "Half."),
    ]
    assert [(p.name, p.default, p.help) for p in parameters(f"{module}:function")] == [
        ("first", MISSING, "One."),
        ("second", "x", ""),
    ]


def test_a_class_without_its_own_constructor_has_its_bases_parameters(module: str) -> None:
    found = {p.name: p.help for p in parameters(f"{module}:Child")}
    assert list(found) == [p.name for p in parameters(f"{module}:Estimator")]
    assert found["n"] == "Fewer."
    assert found["mode"] == "Which way."


def test_names_of_the_module_stand_for_their_values(module: str) -> None:
    assert derived.named(f"{module}:Mode") == Literal["fast", "slow"]
    assert derived.named(f"{module}:Policy") == Literal["zero", "drop"]


def test_what_the_module_does_not_define_is_an_error(module: str) -> None:
    with pytest.raises(LookupError, match=f"{module} defines no Lost"):
        parameters(f"{module}:Lost")


def test_the_docstring_of_work_is_found_where_it_is_defined(module: str) -> None:
    assert documentation(f"{module}:Estimator").startswith("Learns.\n\nIt learns much.")
    assert (
        documentation(f"{module}:lost")
        == documentation("linmap.no_such_module:lost")
        == documentation("os:getcwd")
        == ""
    )


def fit_flags(module: str) -> Any:
    class Fit(Derived):
        """Flags."""

        OF = f"{module}:Estimator"
        LEAVE = ("names",)
        NAMES: ClassVar = {"m": "many"}
        OTHER: ClassVar = {"n": Other(9, "more is better here")}
        rate: float = 0.5
        """The rate."""
        folds: int = 4
        """Own."""

    return flags(Fit)


def test_flags_are_the_parameters_that_a_command_line_can_write_and_the_fields_of_the_class(module: str) -> None:
    kind = fit_flags(module)
    defaults = {field.name: field.default for field in fields(kind)}
    assert defaults == {
        "n": 9,
        "many": None,
        "mode": "fast",
        "policy": None,
        "rates": (1e-3, 2e-3),
        "file": None,
        "pair": (1, 2.0),
        "on": True,
        "device": "cpu",
        "values": (0, 1, 2),
        "rate": 0.5,
        "folds": 4,
    }
    settings = kind(n=1, rate=2.0)
    given = settings.options(random_state=3)
    taken = {name: value for name, value in defaults.items() if name not in ("folds", "many")}
    assert given == taken | {"n": 1, "rate": 2.0, "m": None, "random_state": 3}
    assert differences(kind) == {"n": (9, 3), "rate": (0.5, 0.25)}
    hint = get_type_hints(kind, include_extras=True)["n"]
    assert (get_args(hint)[0], get_args(hint)[1].help) == (int, "How many --many, and of `what`.")


@pytest.mark.parametrize("where", ["LEAVE", "OTHER"])
def test_a_parameter_that_is_not_there_is_refused(where: str, module: str) -> None:
    wrong: dict[str, Any] = {"LEAVE": ("lost",), "OTHER": {"lost": Other(1, "none")}}
    kind = type("Fit", (Derived,), {"OF": f"{module}:Estimator", where: wrong[where]})
    with pytest.raises(ArgumentTypeError, match="lost, which is no parameter of"):
        flags(kind)


@dataclass
class Thing:
    """What no command line can write."""


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        (int, int),
        (int | str, int | str),
        (int | Thing, int),
        (int | float | None, float | None),
        (Literal["a", "b"] | str, Literal["a", "b"]),
        (str | collections.abc.Sequence[str], tuple[str, ...]),
        (Thing | None, None),
        (Thing, None),
        (collections.abc.Sequence[int], tuple[int, ...]),
        (list[Thing], None),
        (collections.abc.Iterable[float] | None, tuple[float, ...] | None),
        (tuple[int, Thing], None),
        (dict[str, int], None),
    ],
)
def test_of_a_type_what_can_be_written_is_left(annotation: Any, found: Any) -> None:
    assert writable(annotation) == found
