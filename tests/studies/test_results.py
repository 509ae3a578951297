"""The page of a study: what ran is replaced, the rest stays."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from studies.__main__ import HERE, main
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


def test_a_record_is_of_the_figures_and_not_of_a_machines_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(PROTOCOLS=[PROTOCOL]))
    assert main(["mbat", "b", "--seeds", "2", "--out", str(tmp_path / "o"), "--results", str(tmp_path / "r")]) == 0
    text = (tmp_path / "r" / "mbat.md").read_text()
    assert "`python -m studies mbat b --seeds 2`" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("file", sorted((HERE / "RESULTS").glob("*.md")), ids=lambda file: file.stem)
def test_no_record_names_a_folder_of_a_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"`/|--out |--results |(?<![\w.])/(work|tmp|home|root)/", text)
