"""The picture of ranks."""

from pathlib import Path

from linmap.adapt.triadaptlora.pictures import draw_ranks, rank_grid

CHANGES = [
    (0, {"encoder.layer.0.query": 1, "encoder.layer.1.value": 2}),
    (3, {"encoder.layer.0.query": 4, "encoder.layer.1.value": 2}),
]


def test_a_rank_holds_from_the_step_that_changed_it(tmp_path: Path) -> None:
    assert rank_grid(CHANGES, 5).tolist() == [[1, 1, 1, 4, 4], [2, 2, 2, 2, 2]]
    drawn = draw_ranks(tmp_path / "ranks.svg", {"mine": CHANGES}, 5).read_text()
    assert all(word in drawn for word in ("0 query", "1 value", "mine"))
