"""The command line as a stranger meets it: help, exit codes, one clear line for each mistake, JSON for machines."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from linmap import recipes
from linmap.cli import VERBS, main
from linmap.errors import UsageError


def answer(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    code = main(words)
    return code, *capsys.readouterr()


def test_help_names_every_verb(capsys):
    code, out, _ = answer(capsys, "--help")
    assert code == 0
    assert all(f"  {verb} " in out for verb in VERBS)
    assert answer(capsys)[:2] == (0, out)


def test_list_names_every_system_with_its_room_and_state(capsys):
    code, out, _ = answer(capsys, "list", "--json")
    listed = {system["slug"]: (system["room"], system["ready"]) for system in json.loads(out)["systems"]}
    assert code == 0
    assert listed == {slug: (system.room, system.ready) for slug, system in recipes.SYSTEMS.items()}
    _, table, _ = answer(capsys, "list")
    assert all(f" {slug} " in table for slug in recipes.SYSTEMS)
    assert table.count(" ready ") == sum(system.ready for system in recipes.SYSTEMS.values())


WRONG = {
    "fti olinear": "there is no verb 'fti'; did you mean 'fit'?",
    "frobnicate": "there is no verb 'frobnicate'; `linmap --help` lists them.",
    "fit": "`linmap fit` needs SYSTEM: linmap fit SYSTEM [flags].",
    "fit --seed 3": "`linmap fit` needs SYSTEM",
    "fit rulr": "there is no system 'rulr'; did you mean 'ruler'?",
    "fit sundial": "sundial is planned, not built yet; `linmap list` shows what is ready.",
    "fit ruler --horizn 3": "there is no flag --horizn; did you mean --horizon?",
    "fit ruler --horizon x": "--horizon: 'x' is not a whole number.",
    "fit ruler --horizon": "Missing value for argument '--horizon'.",
    "fit ruler --horizon 0": "horizon = 0 is no number of steps; give 1 or more.",
    "fit ruler --loss l3": "--loss: 'l3' is not one of l1, l2.",
    "fit ruler extra": "'extra' is not expected here.",
    "fit ruler --seed -1": "--seed -1 is negative; give 0 or more.",
    "fit ruler --data nowhere.csv": "--data nowhere.csv: there is no such file.",
    "fit ruler --data broken.csv": "broken.csv, line 1: 'broken' is not a number; correct it.",
    "fit ruler --out broken.csv": "--out broken.csv is a file; name a folder.",
    "fit compass": "compass has nothing to train; use `linmap apply compass`.",
    "apply ruler": "ruler must be fitted first: `linmap fit ruler --out runs/fit-ruler`",
    "apply no/such": "no/such is neither a folder nor a system; `linmap fit SYSTEM --out",
    "apply broken.csv": "broken.csv is not a saved run: it has no config.json;",
    "apply compas": "compas is neither a folder nor a system; did you mean 'compass'?",
    "compare ruler --preset quick": "there is no flag --preset",
    "tour --systems ruler sundial": "sundial is planned, not built yet;",
    "tour --systems rulr": "there is no system 'rulr'; did you mean 'ruler'?",
    "tour --sytems ruler": "there is no flag --sytems; did you mean --systems?",
    "report": "`linmap report` needs RUNS",
    "report nowhere": "nowhere is not a folder;",
    "report .": ". holds no result;",
}


@pytest.mark.parametrize("line", WRONG)
@pytest.mark.usefixtures("ruler", "compass")
def test_wrong_use_is_one_clear_line_and_exit_code_2(line, capsys):
    Path("broken.csv").write_text("broken")
    code, out, err = answer(capsys, *line.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"linmap: {WRONG[line]}")
    assert err.count("\n") == 1
    code, out, again = answer(capsys, *line.split(), "--json")
    assert (code, again) == (2, err)
    assert json.loads(out) == {"error": err.removeprefix("linmap: ").strip(), "kind": "wrong use", "code": 2}


def test_a_failure_is_one_line_and_a_traceback_only_with_debug(ruler, capsys):
    Path("runs/compare-ruler").mkdir(parents=True)
    Path("runs/compare-ruler/break").touch()
    code, out, err = answer(capsys, "compare", ruler)
    assert (code, out) == (1, "")
    assert err == "linmap: RuntimeError: the ruler broke (--debug shows the traceback)\n"
    code, out, err = answer(capsys, "compare", ruler, "--debug")
    assert (code, out) == (1, "")
    assert "Traceback (most recent call last)" in err
    assert err.endswith("linmap: RuntimeError: the ruler broke\n")


def test_a_warning_is_one_line_without_a_place_in_the_source(monkeypatch, capsys):
    def verb(words):
        warnings.warn("the vectors are not of length 1", stacklevel=2)
        raise UsageError("and there is more")

    monkeypatch.setitem(VERBS, "list", (verb, ""))
    assert answer(capsys, "list")[2] == "linmap: note: the vectors are not of length 1\nlinmap: and there is more\n"


@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_ctrl_c_ends_with_the_line_that_goes_on(flags, ruler, capsys):
    Path("a folder").mkdir()
    Path("a folder/interrupt").touch()
    code, out, err = answer(capsys, "compare", ruler, "--out", "a folder", *flags)
    assert (code, out) == (130, "")
    assert err == "linmap: stopped; go on with: linmap compare ruler --out 'a folder' --resume\n"


def test_a_reader_that_has_gone_is_no_error():
    script = "import sys; from linmap.cli import main; sys.stdin.readline(); sys.exit(main(['list']))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(b"\n")
    assert (process.returncode, err) == (0, b"")


def test_a_terminal_without_the_characters_still_gets_its_table(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "linmap", "list"],
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"olinear" in done.stdout


@pytest.mark.usefixtures("ruler")
def test_under_torchrun_one_process_answers(monkeypatch, capsys):
    launched = {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "RANK": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert answer(capsys, "fit", "ruler")[:2] == (0, "")
    monkeypatch.setenv("RANK", "0")
    assert answer(capsys, "fit", "ruler")[1] != ""


READY = [slug for slug, system in recipes.SYSTEMS.items() if system.ready]


@pytest.mark.parametrize("slug", READY)
def test_every_ready_system_shows_the_flags_of_its_verbs(slug, capsys):
    for verb in ("fit", "apply", "compare") if recipes.load(slug).fit else ("apply", "compare"):
        code, out, err = answer(capsys, verb, slug, "--help")
        assert (code, err) == (0, "")
        recipe = recipes.load(slug)
        reads = recipe.unfitted if verb == "apply" and recipe.unfitted else getattr(recipe, verb)
        assert ("--data" in out) == (not reads.no_data)
        assert "--seed" in out
