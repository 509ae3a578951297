"""A result with everything that a page shows."""

from linmap.experiment.result import Check, Metric, Picture, Result, Row, Table
from linmap.pictures import figure, save_svg


def save_result(folder, system="olinear", text="x", **changes) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    with figure(3, 2) as (fig, ax):
        ax.plot([0, 1], [1, 0])
        save_svg(fig, folder / "a.svg")
    rows = [
        Row(f"sys {text}", "system", {"MSE": [0.5, 0.25]}, parameters=4_518_944, note=text),
        Row(f"base {text}", "baseline", {"MSE": [0.75]}, flops=12_000, seconds=0.01),
        Row(f"less {text}", "ablation", {"MSE": [0.7]}),
    ]
    content = {
        "checks": [
            Check(f"holds {text}", True, f"by {text}", f"else {text}"),
            Check("fails", False, "1 against 2", "take two"),
        ],
        "tables": [Table(f"More {text}", ["name", f"n {text}"], [[text, 12345], ["b", 0.5]], f"note {text}")],
        "pictures": [Picture("a.svg", f"pic {text}", f"caption {text}"), Picture("a.svg", "again", "twice")],
        "command": f"linmap compare {system} --x '{text}'",
        "seeds": [0, 1],
        "verdict": f"take {text}",
        "seconds": 135.0,
        "settings": {"horizon": text},
    } | changes
    result = Result(system, f"task {text}", [Metric("MSE")], rows, f"shows {text}", f"limits {text}", **content)
    result.save(folder)
    return result
