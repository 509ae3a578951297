"""The page of a study: what ran is replaced, the rest stays."""

from pathlib import Path

from studies.results import merged, section
from studies.study import Findings, Job, Protocol

from linmap.experiment import Check, Table

PROTOCOL = Protocol("b", "Does it hold?", lambda job: Findings("Ten rows."))


def test_a_new_section_takes_the_place_of_its_old_one_and_no_other() -> None:
    first = merged("", "x", {"b": "old b\n"}, ["a", "b", "c"])
    second = merged(first, "x", {"c": "new c\n", "a": "new a\n"}, ["a", "b", "c"])
    third = merged(second, "x", {"b": "new b\n"}, ["a", "b", "c"])
    assert [line for line in third.splitlines() if line.startswith(("##", "new", "old"))] == [
        "## a",
        "new a",
        "## b",
        "new b",
        "## c",
        "new c",
    ]
    assert merged(third, "x", {}, ["a", "b", "c"]) == third


def test_a_section_holds_everything_that_was_found(tmp_path: Path) -> None:
    findings = PROTOCOL.run(Job(tmp_path))
    findings.tables.append(Table("Errors", ["method", "MSE"], [["a|b", 0.5]], "Lower is better."))
    findings.checks.append(Check("a is above b", False, "1 against 2", "take b"))
    findings.sentences.append("It does.")
    text = section(PROTOCOL, findings, "2026-11-29", tmp_path)
    for part in (
        "Does it hold?",
        "Ten rows.",
        "It does.",
        "| a\\|b | 0.5 |",
        "**does not hold** (1 against 2)",
        "_2026-11-29_",
    ):
        assert part in text
