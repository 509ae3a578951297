"""Workflows, issue forms and metadata parse, and agree with the rest of the project."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import linmap
from linmap.recipes import SYSTEMS

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _parsed(path: Path) -> dict[Any, Any]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict), path
    return document


def _commands(workflow: Path) -> Iterator[str]:
    for job in _parsed(workflow)["jobs"].values():
        for step in job.get("steps", []):
            if "run" in step:
                yield step["run"]


def _made(text: str) -> set[str]:
    """The targets of `make` in a text."""
    return set(re.findall(r"\bmake ([a-z-]+)", text))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_of_the_makefile_that_the_readme_names(workflow: Path) -> None:
    ours = {target for command in _commands(workflow) for target in _made(command)}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert ours, workflow
    assert ours <= targets & _made((ROOT / "README.md").read_text())


def test_every_workflow_job_has_a_machine_a_limit_and_pinned_actions() -> None:
    for workflow in WORKFLOWS:
        for name, job in _parsed(workflow)["jobs"].items():
            if "uses" in job:  # another workflow of this repository
                assert (ROOT / job["uses"]).is_file()
                continue
            assert {"runs-on", "timeout-minutes", "steps"} <= set(job), (workflow, name)
            assert all("@" in step["uses"] for step in job["steps"] if "uses" in step)


def test_github_runs_what_the_other_ci_runs() -> None:
    github = {target for command in _commands(ROOT / ".github" / "workflows" / "ci.yml") for target in _made(command)}
    assert github == _made((ROOT / ".ci" / "run").read_text())


def test_the_suite_runs_on_every_python_that_the_package_names() -> None:
    matrix = _parsed(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    named = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert matrix["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_github_asks_for(form: Path) -> None:
    document = _parsed(form)
    assert {"name", "description", "body"} <= set(document)
    questions = [part for part in document["body"] if part["type"] != "markdown"]
    assert questions
    assert len({part["id"] for part in questions}) == len(questions)
    assert all(part["attributes"]["label"] for part in questions)
    assert all(part["attributes"]["options"] for part in questions if part["type"] == "dropdown")


def test_the_feature_form_offers_the_rooms() -> None:
    parts = _parsed(ROOT / ".github" / "ISSUE_TEMPLATE" / "feature.yml")["body"]
    offered = next(part["attributes"]["options"] for part in parts if part["type"] == "dropdown")
    rooms = list(dict.fromkeys(system.room for system in SYSTEMS.values()))
    assert offered[: len(rooms)] == rooms


def test_a_commit_is_formatted_by_the_ruff_that_lints() -> None:
    (repository,) = _parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ruff=={repository['rev'].removeprefix('v')}" in constraints


def test_read_the_docs_builds_the_site_of_make_docs() -> None:
    settings = _parsed(ROOT / ".readthedocs.yaml")
    assert (ROOT / settings["mkdocs"]["configuration"]).is_file()
    assert settings["mkdocs"]["fail_on_warning"]  # as --strict
    (install,) = settings["python"]["install"]
    assert set(install["extra_requirements"]) <= set(PROJECT["optional-dependencies"])


def test_the_citation_has_the_paper_of_every_ready_system() -> None:
    citation = _parsed(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == linmap.__version__
    papers = {reference["notes"]: reference for reference in citation["references"]}
    assert list(papers) == [system.slug for system in SYSTEMS.values() if system.ready]
    for slug, reference in papers.items():
        number = SYSTEMS[slug].paper.removeprefix("arXiv ")
        assert reference["url"] == f"https://arxiv.org/abs/{number}"
        assert reference["identifiers"] == [{"type": "other", "value": f"arXiv:{number}"}]
        assert reference["title"]
        assert reference["year"]
        assert all(author.keys() & {"family-names", "name"} for author in reference["authors"])


def test_the_address_of_the_repository_stands_in_one_place() -> None:
    address = PROJECT["urls"]["Repository"]
    written = [*ROOT.glob("*.*"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.yml"), *ROOT.glob("src/**/*.py")]
    assert [path.name for path in written if path.is_file() and address in path.read_text()] == ["pyproject.toml"]


def test_only_bytes_are_asked_for_digits() -> None:
    """Of text, "³".isdigit() is true, and int("³") an error; isdecimal() says what int takes."""
    asking = [path for path in (ROOT / "src").rglob("*.py") if "isdigit()" in path.read_text(encoding="utf-8")]
    assert [path.name for path in asking] == ["surfaces.py"]
