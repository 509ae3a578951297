"""The one engine of comparisons and studies.

An experiment is declared: arms (how a method is built, trained and measured), parts of the data, seeds, and how rates
are chosen. The engine runs it, keeps every finished run on disk, goes on after Ctrl-C or a kill, and gives rows, paired
differences and a verdict.

>>> experiment = Experiment("mine", out / "runs", {"epochs": 3, "data": fingerprint(path)})  # doctest: +SKIP
>>> arms = [Arm("SALT", "system", train_salt, rates=RATES), Arm("LoRA", "baseline", train_lora)]  # doctest: +SKIP
>>> runs = experiment.run(arms, [Part("", data)], range(3), Choice("validation loss"))  # doctest: +SKIP
>>> rows = runs.rows([Metric("Dice", "higher")])  # doctest: +SKIP
>>> verdict(rows, Metric("Dice", "higher"))  # doctest: +SKIP
"""

from linmap.data.fingerprints import fingerprint
from linmap.experiment.conclusion import conclude
from linmap.experiment.drawing import draw_all, with_pictures
from linmap.experiment.engine import Arm, Choice, Experiment, Outcome, Part, Runs, Trial, untouched
from linmap.experiment.figures import Difference, differ, mean_std, paired, ranking
from linmap.experiment.kept import Run, weights_digest
from linmap.experiment.result import Check, Failure, Kind, Metric, Picture, Result, Row, Table
from linmap.experiment.verdict import beats, capitalized, verdict

__all__ = [
    "Arm", "Check", "Choice", "Difference", "Experiment", "Failure", "Kind", "Metric", "Outcome", "Part", "Picture",
    "Result", "Row", "Run", "Runs", "Table", "Trial", "beats", "capitalized", "conclude", "differ", "draw_all",
    "fingerprint", "mean_std", "paired",
    "ranking", "untouched", "verdict", "weights_digest", "with_pictures",
]  # fmt: skip
