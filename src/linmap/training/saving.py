"""Estimators with a network, written into a folder and read from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

from sklearn.utils.validation import check_is_fitted

from linmap import artifacts
from linmap.data.schema import check_parameters, typed
from linmap.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from linmap.training.history import TrainingHistory


class Nothing(TypedDict):
    """Of estimators that learn nothing but weights."""


class SavedEstimator:
    """Base of a scikit-learn estimator whose `fit` trains the network that `build` makes.

    What `fit` learns beside the weights is what `_learnt` gives and `_restore` takes, and, of arrays, what `_tensors`
    gives and `_take` takes.
    """

    SYSTEM: ClassVar[str]
    """Of its runs."""
    LEARNT: ClassVar[type] = Nothing
    """A `TypedDict` of what `_learnt` gives."""
    PREFIX: ClassVar[str] = ""
    """What stands before the names of weights in the file."""

    if TYPE_CHECKING:
        random_state: int
        model_: Any
        history_: TrainingHistory | None

        def get_params(self, deep: bool = True) -> dict[str, Any]: ...

        def build(self) -> nn.Module: ...

    @classmethod
    def _parameters(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as the constructor takes them, of what JSON has."""
        return dict(saved)

    def _check_parameters(self) -> None:
        """Refuse parameters that `fit` would refuse."""

    def _learnt(self) -> dict[str, Any]:
        """What beside parameters and weights makes the fitted estimator, as JSON has it."""
        raise NotImplementedError

    def _restore(self, config: Mapping[str, Any]) -> None:
        """Take what `_learnt` gave."""
        raise NotImplementedError

    def _tensors(self) -> dict[str, Tensor]:
        """What beside the weights is kept in full precision."""
        return {}

    def _take(self, tensors: dict[str, Tensor]) -> None:
        """Take what `_tensors` gave out of `tensors`; comes after `_restore` and before `build`."""

    def save(self, folder: Path | str, **more: Any) -> None:
        """Write parameters and weights into `folder`; `more` goes into the configuration."""
        check_is_fitted(self, "model_")
        config = {"estimator": type(self).__name__, "parameters": self.get_params(), **self._learnt()} | more
        weights = {f"{self.PREFIX}{name}": value for name, value in self.model_.state_dict().items()}
        artifacts.save(folder, self.SYSTEM, artifacts.plain(config), weights | self._tensors(), seed=self.random_state)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """What `save` wrote.

        Raises
        ------
        ArtifactError
            If the folder holds no such run.
        """
        config, tensors = artifacts.load(folder, cls.SYSTEM)
        with artifacts.reading(folder):
            kind = config.get("estimator", cls.__name__)  # runs of older versions may have none
            if kind != cls.__name__:
                raise ArtifactError(f"{folder} holds a {kind}, not a {cls.__name__}.")
            check_parameters(cls, config["parameters"])
            self = cls(**cls._parameters(config["parameters"]))
            self._check_parameters()
            typed(cls.LEARNT, config, "config")
            self._restore(config)
            self._take(tensors)
            self.history_, self.model_ = None, self.build()
            self.model_.load_state_dict({name.removeprefix(cls.PREFIX): value for name, value in tensors.items()})
            self.model_.eval()
        return self
