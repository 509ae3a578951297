"""What states remember, in closed form: tables, checks and pictures of `memory`."""

from __future__ import annotations

from functools import partial

from linmap.experiment import Check, Table, draw_all
from studies.hippo.memory import (
    CYCLES,
    DELAY,
    DELAYED,
    QUARTERS,
    SIGNALS,
    STATES,
    WINDOW,
    Reconstruction,
    delays,
    reconstructions,
)
from studies.hippo.pictures import draw_delays, draw_errors, draw_kernels, draw_reconstructions
from studies.study import Findings, Job

SIZES = (8, 16, 32, 64)  # numbers of coefficients that the past of a signal is kept in


def memory(job: Job) -> Findings:
    """The past of signals reconstructed, and a signal delayed by a linear readout; no training."""
    seed = job.seeds[0]
    found, delayed = reconstructions(SIZES[:2] if job.tiny else SIZES, seed), delays(seed)
    drawings = {
        "reconstruction.svg": partial(draw_reconstructions, seed),
        "reconstruction-error.svg": partial(draw_errors, found),
        "delay.svg": partial(draw_delays, delayed),
        "kernels.svg": draw_kernels,
    }
    drawn, missing = draw_all((job.out / name, draw) for name, draw in drawings.items())
    at = CYCLES.index(5)
    best = min(delayed, key=lambda name: delayed[name][at])
    said = f"A delay of {DELAY} samples at 5 cycles is held best by {best} (1e{delayed[best][at]:.1f})."
    return Findings(
        "White noise cut at a frequency, an electrocardiogram, and the sea surface temperature of El Niño.",
        [reconstruction_table(found), delay_table(delayed)],
        memory_checks(found, delayed),
        [said, *missing],
        drawn,
    )


def reconstruction_table(found: list[Reconstruction]) -> Table:
    sizes = list(dict.fromkeys(r.N for r in found))
    pairs = list(dict.fromkeys((r.signal, r.method) for r in found))
    error = {(r.signal, r.method, r.N): r.error for r in found}
    rows: list[list[str | float | int]] = [
        [signal, method, *(f"{error[signal, method, N]:.4f}" for N in sizes)] for signal, method in pairs
    ]
    return Table(
        "The past of a signal, reconstructed from N numbers",
        ["signal", "kept by", *(f"N = {N}" for N in sizes)],
        rows,
        f"Root mean square error over the signal's deviation, on all of the past (first way) or on the last {WINDOW} "
        f"samples (El Niño: {QUARTERS} quarters). The white signals are {SIGNALS} of 400 samples.",
    )


def delay_table(found: dict[str, list[float]]) -> Table:
    rows: list[list[str | float | int]] = [
        [name, *(f"{error:.1f}".replace("-0.0", "0.0") for error in errors)] for name, errors in found.items()
    ]
    return Table(
        f"A delay by {DELAY} samples, read linearly from {STATES} states",
        ["system", *(f"{cycles} cycles" if cycles > 1 else "1 cycle" for cycles in CYCLES)],
        rows,
        f"log10 of the squared error over the variance, on {DELAYED} signals that the readout was not fitted to; "
        "columns are the highest frequency in cycles per delay.",
    )


def memory_checks(kept: list[Reconstruction], delayed: dict[str, list[float]]) -> list[Check]:
    white = {r.N: r.error for r in kept if r.signal == kept[0].signal and r.method == kept[0].method}
    few, many = min(white), max(white)
    five, twenty = CYCLES.index(5), CYCLES.index(20)
    at = {name: errors[five] for name, errors in delayed.items()}
    wrong = [at["LegT, dt ten times too small"], at["LegT, dt ten times too large"]]
    return [
        Check(
            "in more numbers, scaled LegS has a tenth of the error on a band-limited signal",
            white[many] < white[few] / 10,
            f"{white[few]:.3f} at N = {few}, {white[many]:.4f} at N = {many}",
            "the state does not hold what the theory says it can",
        ),
        Check(
            "at 5 cycles, LegT and LegS delay to 1e-5 and FouT to 1e-2; real and random states do not",
            max(at["LegT"], at["LegS"]) < -5 and at["FouT"] < -2 and min(at["S4D-Real"], at["random"]) > -0.5,
            ", ".join(f"{name} {value:.1f}" for name, value in at.items() if "ten times" not in name),
            "the initialisation is wrong, or it does not matter which one is taken",
        ),
        Check(
            "at 20 cycles, only the measures with a window delay",
            max(delayed["LegT"][twenty], delayed["FouT"][twenty]) < -1 < delayed["LegS"][twenty],
            ", ".join(f"{name} {delayed[name][twenty]:.1f}" for name in ("LegT", "FouT", "LegS")),
            "a window is not what makes a long delay possible",
        ),
        Check(
            "with a step ten times too small or too large, LegT does not delay",
            min(wrong) > -0.5,
            f"{wrong[0]:.1f} and {wrong[1]:.1f} against {at['LegT']:.1f}",
            "the step would not matter, against the theory",
        ),
    ]
