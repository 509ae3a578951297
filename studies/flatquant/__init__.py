"""FlatQuant on SmolLM2-135M and WikiText-2: its table, its flatness, and where the error comes from."""

from studies.flatquant.errors import errors
from studies.flatquant.flatness import flatness_of_places
from studies.flatquant.table import distilled, torchao, wide, wikitext
from studies.study import Protocol

DATA = "text/wikitext2_raw_calib.txt and text/wikitext2_raw_test.txt in LINMAP_DATA"

PROTOCOLS = [
    Protocol("wikitext", "What perplexity has each way to few bits?", wikitext, DATA),
    Protocol("wide", "What does FlatQuant give as published, with clipping from .982?", wide, DATA),
    Protocol("distilled", "What does training all blocks together gain?", distilled, DATA),
    Protocol("flatness", "How flat are activations and weights under each transform?", flatness_of_places, DATA),
    Protocol("errors", "Which blocks and which tokens does rounding hurt?", errors, DATA),
    Protocol("torchao", "What does torchao give on a GPU?", torchao, f"{DATA}; a GPU and torchao"),
]
