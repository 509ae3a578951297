"""The checker of shape annotations in the test run: beartype, with `Self` left to pyright."""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

# jaxtyping decorates methods one by one, and beartype knows what `Self` is only when it decorates the class
check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any})))
