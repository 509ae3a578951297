"""What is refused, by name and with what came."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fresh import Fresh
from linmap.shapes import tinvnn

library: Any = tinvnn  # the checker would refuse these calls as well
pytestmark = pytest.mark.usefixtures("annotations_unchecked")
X = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
BAD = X.clone()
BAD[1, 4, 0] = torch.nan
INFINITE = X.clone()
INFINITE[0, 0, 2] = torch.inf
MASK = torch.ones(2, 6, dtype=torch.bool)
FEW = MASK.clone()
FEW[1, 1:] = False


def graph(position: Any, batch: Any = None) -> Any:
    return SimpleNamespace(pos=position, batch=batch)


def frame() -> Any:
    return library.tinv_frame(X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: library.TinvEmbedding()(X[0, 0]), "X must be (B, n, d)"),
        (lambda: library.TinvEmbedding()(X[None]), "X must be (B, n, d)"),
        (lambda: library.TinvEmbedding()(X[:, :0]), "at least one point"),
        (lambda: library.TinvEmbedding()(BAD), "X is not finite: cloud 1, point 4"),
        (lambda: library.tinv_frame(INFINITE), "X is not finite: cloud 0, point 0"),
        (lambda: library.TinvEmbedding()(BAD.requires_grad_()), "cloud 1"),
        (lambda: library.TinvEmbedding()(X, MASK[:1]), "mask must have one value"),
        (lambda: library.TinvEmbedding()(X, FEW), "mask leaves 1 points of cloud 1"),
        (lambda: library.TinvEmbedding(0), "n_components=0"),
        (lambda: library.TinvEmbedding(1.5), "n_components=1.5"),
        (lambda: library.TinvEmbedding(scale="std"), "scale='std' must be one of 'rms', 'maxdist', 'maxnorm', 'none'"),
        (lambda: library.TinvEmbedding(signs="svd"), "signs='svd' must be one of 'moment', 'frames', 'random', 'none'"),
        (lambda: library.TinvEmbedding(tie_tol=-1.0), "tie_tol=-1.0"),
        (lambda: library.TinvEmbedding(reflections="no"), "reflections='no'"),
        (lambda: library.TinvEmbedding(detach_frame=1), "detach_frame=1"),
        (lambda: library.TinvEmbedding(2, reflections=False)(X), "n_components=2"),
        (lambda: library.tinv_frame(X, n_components=2, reflections=False), "reflections=False"),
        (lambda: library.TinvEmbedding(9).frames(X), "n_components=9"),
        (
            lambda: library.TinvWrapper(torch.nn.Identity(), average="mean"),
            "average='mean' must be one of 'prob', 'logit'",
        ),
        (lambda: library.invariance_error(torch.sum, X, "U(d)"), "group='U(d)' must be one of 'E(d)xR+'"),
        (lambda: library.invariance_error(torch.sum, X, n=0), "n=0"),
        (lambda: frame().from_canonical(X, "tensor"), "kind='tensor' must be one of 'point', 'vector', 'direction'"),
        (lambda: frame().from_canonical(X[..., :2]), "Y must have shape (2, n, 3)"),
        (lambda: frame().to_canonical(X[0]), "X must have shape (2, n, 3)"),
        (lambda: library.moment_signs(X, MASK[:1]), "mask must be boolean of shape (2, 6)"),
        (lambda: library.moment_signs(BAD), "H is not finite in cloud 1"),
        (lambda: library.moment_signs(X[0, 0]), "H must be (..., n, q)"),
        (lambda: library.moment_signs(X, tau=-1.0), "tau=-1.0"),
        (lambda: library.TinvWrapper(torch.sum)(X[0], torch.ones(2, 3, dtype=torch.bool)), "mask must have one value"),
        (lambda: library.invariance_error(torch.sum, BAD), "X is not finite: cloud 1"),
        (lambda: library.TinvTransform()(graph(X[0, :0])), "data.pos must hold at least one point"),
        (lambda: library.TinvTransform()(graph(X[0], torch.tensor([0, 0, 7, 0, 0, 0]))), "data.batch: cloud 7 has one"),
    ],
)
def test_values(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: library.TinvEmbedding()(X.to(torch.complex64)), "X must hold real numbers, got torch.complex64"),
        (lambda: library.TinvEmbedding()(X > 0), "got torch.bool"),
        (lambda: library.TinvEmbedding()("cloud"), "X must be a tensor of numbers, got str"),
        (lambda: library.TinvEmbedding()(X, MASK.int()), "mask must be boolean"),
        (lambda: library.TinvEmbedding()(X, "all"), "mask must be a boolean tensor, got str"),
        (lambda: library.TinvWrapper(torch.sum)(X, "all"), "mask must be a boolean tensor, got str"),
        (lambda: library.moment_signs(X, "all"), "mask must be a boolean tensor, got str"),
        (lambda: library.invariance_error(str, X), "net must return a tensor, got str"),
        (lambda: library.TinvTransform("moment"), "embedding must be a TinvEmbedding"),
        (lambda: library.TinvTransform()(graph(X[0], [0] * 6)), "data.batch must be a tensor (n,), got list"),
        (lambda: library.TinvWrapper(3), "net must be a module or a function"),
        (lambda: library.TinvWrapper(torch.sum, "moment"), "embedding must be a TinvEmbedding"),
    ],
)
def test_types(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


def test_clouds_of_later_parts_are_named_by_their_place() -> None:
    many = torch.randn(300, 400, 3)
    many[250, 7, 1] = torch.inf
    with pytest.raises(ValueError, match="cloud 250, point 7"):
        library.TinvEmbedding()(many)


def test_warnings_name_the_line_of_the_user() -> None:
    done = Fresh(
        "import torch; from linmap.shapes.tinvnn import *; X = torch.ones(4, 2)\nTinvEmbedding()(X)\ntinv_frame(X)"
    )
    assert done.wait() == 0
    told = [line for line in done.stderr.splitlines() if "UserWarning" in line]
    assert [line.split(": all points of cloud 0 are equal")[0] for line in told] == [
        "<program>:2: UserWarning",
        "<program>:3: UserWarning",
    ]
