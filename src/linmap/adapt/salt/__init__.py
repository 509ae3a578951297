"""SALT: the large singular values of a frozen weight scaled and shifted, the core of the others updated in low rank."""

from linmap.adapt.salt.config import SaltConfig, SaltModel
from linmap.adapt.salt.inspection import salt_regularization, salt_spectrum
from linmap.adapt.salt.layer import SaltConv2d, SaltLayer, SaltLinear
from linmap.adapt.salt.weight import salt_core, salt_weight
from linmap.adapt.tuner import register_with_peft
from linmap.maps.spectral import signed_svd

__all__ = [
    "SaltConfig",
    "SaltConv2d",
    "SaltLayer",
    "SaltLinear",
    "SaltModel",
    "salt_core",
    "salt_regularization",
    "salt_spectrum",
    "salt_weight",
    "signed_svd",
]

register_with_peft(SaltConfig, SaltModel)
