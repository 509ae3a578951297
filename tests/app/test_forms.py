"""Forms and the command line say the same: what is not touched is no flag, what is changed is read as it was meant."""

from dataclasses import asdict, fields

import pytest

from linmap.app.forms import Field, command_words, form, outside
from linmap.app.methods import METHODS
from linmap.cli.flags import parse
from linmap.errors import UsageError
from linmap.recipes import SYSTEMS, load

VERBS = [
    (slug, name, verb)
    for slug, system in SYSTEMS.items()
    if system.ready
    for name in ("fit", "apply", "compare", "unfitted")
    if (verb := getattr(load(slug), name)) is not None
]


def untouched(found: list[Field]) -> dict[str, str]:
    """What a browser sends of a form that nobody touched."""
    return {field.name: field.shown if field.kind != "switch" else "on" if field.default else "off" for field in found}


@pytest.mark.parametrize(("slug", "name", "verb"), VERBS, ids=lambda part: part if isinstance(part, str) else "")
def test_an_untouched_form_has_no_flags_and_every_change_is_read_as_it_was_meant(slug, name, verb):
    kind = verb.settings(None)
    found = form(kind)
    sent = untouched(found)
    assert command_words(found, sent, {}) == command_words(found, {}, {}) == []
    wanted = {}
    for field in found:
        if field.kind == "switch":
            wanted[field.name] = not field.default
            sent[field.name] = "off" if field.default else "on"
        elif field.kind == "choice":
            wanted[field.name] = next(word for word in field.choices if word != str(field.default))
            sent[field.name] = wanted[field.name]
        elif field.kind == "integer":
            wanted[field.name] = (field.default or 0) + 3
            sent[field.name] = str(wanted[field.name])
        elif field.kind == "number":
            wanted[field.name] = (field.default or 0) + 0.25
            sent[field.name] = str(wanted[field.name])
    words = command_words(found, sent, {})
    loose = type(kind.__name__, (kind,), {"__post_init__": lambda self: None})  # its checks are not what is tested here
    values = asdict(parse(words, "linmap", "", settings=loose)["settings"])
    read = {name: values[name] for name in wanted}
    assert {name: str(value) for name, value in read.items()} == {name: str(value) for name, value in wanted.items()}


@pytest.mark.parametrize(("slug", "name", "verb"), VERBS, ids=lambda part: part if isinstance(part, str) else "")
def test_every_field_is_explained(slug, name, verb):
    found = form(verb.settings(None))
    assert {field.name for field in found if not field.help.strip()} == set()
    assert {field.name for field in found} <= {one.name for one in fields(verb.settings(None))}


@pytest.mark.parametrize("text", ["/etc/passwd", "~/x", "../x", "a/../../x", "https://a.b/c", "C:\\x", "file://x"])
def test_a_form_names_no_file_of_this_machine(text, tmp_path):
    assert outside(text)
    field = Field("model", "text", "dinov2-small", "")
    with pytest.raises(UsageError, match=r"--model .*upload"):
        command_words([field], {"model": text}, {})
    assert command_words([field], {"model": "mine"}, {"mine": tmp_path}) == [f"--model={tmp_path}"]
    assert command_words([Field("at", "list", (), "")], {"at": "name address.city 0"}, {}) == [
        "--at",
        "name",
        "address.city",
        "0",
    ]


@pytest.mark.parametrize("text", ["a --out=/etc/x", "--data /etc/passwd", "-x"])
def test_a_list_holds_no_other_flag(text):
    field = Field("levels", "list", (), "")
    with pytest.raises(UsageError, match="--levels"):
        command_words([field], {"levels": text}, {})
    assert command_words([field], {"levels": "-1 -.5 2e-3"}, {}) == ["--levels", "-1", "-.5", "2e-3"]


def test_every_system_is_told_in_five_sentences():
    assert set(METHODS) == set(SYSTEMS)
    for method in METHODS.values():
        assert len(method.sentences) == 5
        assert method.formula
        assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in (*method.sentences, method.whom))
