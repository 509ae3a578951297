"""What proves OLinear: the paper's tasks, whether its parts matter, and its parts in other forecasters."""

from studies.olinear.hosts import hosts
from studies.olinear.intervals import intervals
from studies.olinear.main_tasks import horizons, ili
from studies.olinear.variants import bases, mixings
from studies.study import Protocol

PROTOCOLS = [
    Protocol("horizons", "Does OLinear reach the published errors on ETTh1 at every horizon?", horizons),
    Protocol("ili", "Does it forecast short weekly series a third better than DLinear?", ili),
    Protocol("bases", "Does it matter which basis the time steps are written in?", bases),
    Protocol("mixings", "Does it matter how the series are mixed?", mixings),
    Protocol(
        "hosts", "Do OrthoTrans and NormLin help other forecasters?", hosts, needs="neuralforecast (linmap[sequence])"
    ),
    Protocol("intervals", "Do the conformal intervals hold what they promise?", intervals),
]
