"""What proves HiPPO and S4: what states remember, and what layers of them learn."""

from studies.hippo.learning import archive, listops, pixels, pixels_784, pixels_small
from studies.hippo.remembering import memory
from studies.study import Protocol

MNIST = "mnist_12k.npz in LINMAP_DATA"
PROTOCOLS = [
    Protocol("memory", "What does a state of N numbers tell of the past of a signal?", memory),
    Protocol(
        "pixels-small", "Do state spaces learn digits pixel by pixel, and what are they without parts?", pixels_small
    ),
    Protocol(
        "pixels", "Is the published accuracy reached, and which start of the states is best?", pixels, needs=MNIST
    ),
    Protocol("pixels-784", "And on sequences of 784 pixels?", pixels_784, needs=MNIST),
    Protocol("listops", "Do state spaces learn nested operations?", listops),
    Protocol("archive", "What are they worth on few real series?", archive, needs="aeon (linmap[sequence])"),
]
