"""BT²: text retrieval with an old and a new model, and the paper's settings with trained networks on digits."""

from studies.bt2.backfill import backfill
from studies.bt2.image_protocols import series, settings
from studies.bt2.texts import banking77, cranfield
from studies.study import Protocol

CRANFIELD = "bt2/cranfield_embeddings.npz and retrieval/qrels.tsv in LINMAP_DATA"
PROTOCOLS = [
    Protocol("cranfield", "Do new queries find judged abstracts in an old gallery, by each way?", cranfield, CRANFIELD),
    Protocol("banking77", "Do new queries find questions of the same intent, by each way?", banking77),
    Protocol("backfill", "Does quality rise all the way while a gallery is embedded again?", backfill),
    Protocol("images", "Is a new network, trained to be compatible, better than one trained alone?", settings),
    Protocol("series", "Does a series of upgrades keep what each step gained?", series),
]
