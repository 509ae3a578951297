"""Augmented covariance (arXiv 2302.04508): MAMEM's eleven subjects, and PhysioNet's S001."""

from studies.acm.mamem import eleven_subjects
from studies.acm.physionet import s001
from studies.study import Protocol

PROTOCOLS = [
    Protocol("mamem", "What do lags add over plain covariances, filtered and not, on eleven subjects?", eleven_subjects,
             "MAMEM whole (eeg/mamem_ssvep.npz in LINMAP_DATA)"),
    Protocol("physionet", "And on fists that are moved or imagined?", s001,
             "PhysioNet's S001 (eeg/eegmmidb_s001.npz in LINMAP_DATA)"),
]  # fmt: skip
