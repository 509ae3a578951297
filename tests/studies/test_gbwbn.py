"""The protocols of GBWBN, tiny; what is never trained on, and what the synthetic matrices are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from studies.gbwbn import PROTOCOLS, motion, synthetic
from studies.gbwbn.methods import gbwbn, methods
from studies.study import Job, Protocol

from linmap.data.covariances import hdm05

SLOW = {"mamem": [pytest.mark.slow]}


@pytest.mark.parametrize("protocol", [pytest.param(p, marks=SLOW.get(p.name, []), id=p.name) for p in PROTOCOLS])
def test_a_protocol_runs_and_names_its_methods(protocol: Protocol, tmp_path: Path) -> None:
    found = protocol.run(Job(tmp_path, seeds=(0,), tiny=True))
    for table in found.tables:
        assert {row[0] for row in table.rows} >= {*methods(()), gbwbn(0.5)}
        assert not any(cell in ("nan", "failed", "not finite") for row in table.rows for cell in row)
    assert all((tmp_path / picture.file).exists() for picture in found.pictures)
    assert not any("not drawn" in sentence for sentence in found.sentences)


def test_no_test_actor_is_trained_on_or_chosen_by() -> None:
    data = hdm05(subset=True)
    for choose in (True, False):
        fold = motion.split(data, choose)
        assert fold.train.domain is not None
        assert fold.test.domain is not None
        assert fold.validation.domain is not None
        assert set(fold.test.domain) == set(motion.TEST)
        assert set(fold.train.domain) == set(motion.TRAIN) | (set() if choose else {motion.VALIDATION})
        assert set(fold.validation.domain) == ({motion.VALIDATION} if choose else set())
    few = motion.few(motion.split(data), 2, 0)
    assert (len(few.train), len(few.test)) == (22, 44)


def test_synthetic_matrices_have_their_condition_number_and_classes_that_differ() -> None:
    X, y = synthetic.synthetic(1e5, 0)
    np.testing.assert_allclose(np.linalg.cond(X), 1e5, rtol=1e-4)
    assert np.linalg.norm(X[y == 0].mean(0) - X[y == 1].mean(0)) > 1e-3


def test_steps_are_finite_and_gradients_smaller_than_without_a_normalisation() -> None:
    ours, none = (
        synthetic.some_steps(options, 1e7, torch.float32, 0, 5).values
        for options in ({"norm": "gbw", "theta": 0.5}, {"norm": None})
    )
    assert np.isfinite(list(ours.values())).all()
    assert none["gradient"] > ours["gradient"]
    assert len(methods(fixed=True)) == 9
