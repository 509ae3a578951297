"""The checker of shape annotations in the test run: beartype, with `Self` left to pyright."""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

# An int is a float, as in PEP 484. jaxtyping decorates methods one by one, and beartype knows what `Self` is only when
# it decorates the class.
check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any})))
