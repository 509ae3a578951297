"""A comparison without one of its pictures is still a comparison."""

from pathlib import Path

from linmap.experiment.drawing import with_pictures
from linmap.experiment.result import Metric, Picture, Result, Row


def test_a_picture_that_cannot_be_drawn_is_a_note_and_the_others_are_there(tmp_path: Path) -> None:
    def good(path: Path) -> Picture:
        path.write_text("<svg/>")
        return Picture(path.name, "Good", "It is there.")

    def bad(path: Path) -> Picture:
        path.write_text("half of it")
        raise ValueError("no two points differ")

    result = Result(
        "ruler", "A task.", [Metric("error")], [Row("ruler", "system", {"error": [1.0]})], "It shows.", "It hides."
    )
    found = with_pictures(result, [(tmp_path / "bad.svg", bad), (tmp_path / "good.svg", good)])
    assert [picture.title for picture in found.pictures] == ["Good"]
    assert found.limits == "It hides. bad.svg was not drawn: no two points differ."
    assert [path.name for path in tmp_path.iterdir()] == ["good.svg"]
    assert result.pictures == []
