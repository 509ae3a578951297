"""Every system's recipe: its work is where it says, and says what it does."""

import importlib
from dataclasses import fields

import pytest

from linmap import recipes
from linmap.recipes.recipe import Verb

READY = [slug for slug, system in recipes.SYSTEMS.items() if system.ready]


def verbs(slug: str) -> dict[str, Verb]:
    recipe = recipes.load(slug)
    given = {"fit": recipe.fit, "apply": recipe.apply, "unfitted": recipe.unfitted, "compare": recipe.compare}
    return {name: verb for name, verb in given.items() if verb is not None}


@pytest.mark.parametrize("slug", READY)
def test_work_is_where_the_recipe_says_and_its_docstring_is_the_help(slug: str) -> None:
    for name, verb in verbs(slug).items():
        module, _, work = verb.work.partition(":")
        function = getattr(importlib.import_module(module), work)
        assert work == name
        assert verb.purpose()
        assert (function.__doc__ or "").strip().startswith(verb.purpose().partition("\n")[0])


@pytest.mark.parametrize("slug", READY)
def test_defaults_alone_are_settings_and_other_names_are_flags(slug: str) -> None:
    named = set(recipes.load(slug).flag_of.values())
    for verb in verbs(slug).values():
        settings = verb.settings()()
        named -= {field.name for field in fields(settings)}
    assert named == set()


def test_a_system_is_found_by_its_name_alone() -> None:
    assert {recipes.find(slug).slug for slug in recipes.SYSTEMS} == set(recipes.SYSTEMS)


def test_the_name_of_the_vectors_is_that_of_the_stores() -> None:
    """It is written twice, because the flags of `linmap search` import nothing heavy."""
    from linmap.data.vectors.store import FIELD
    from linmap.recipes import search

    assert search.FIELD == FIELD
