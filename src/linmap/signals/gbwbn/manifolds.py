"""geoopt and spd_learn, imported without the deprecations that they meet themselves: those are not the user's."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # geoopt calls torch.jit.script when it is imported
    import geoopt
    from spd_learn import modules as spd_learn

__all__ = ["geoopt", "spd_learn"]
