"""linearscope: read a network as one affine map per input (Navarrete Michelini et al., ICCV 2019).

`checks` looks at the model and the input, `scope` reads them, `passage` sends the input through, `trace` watches one
pass (`aliasing` keeps track of writes in place, `watch` of what comes from outside), `rules` says what every
operation becomes, `tape` replays it, `interpreter` is the map, `proof` holds it against the network, `parts` cuts the
map at layers and tokens, `mixing` says what tokens take from one another, `receptive` proves how far a pixel reaches,
`analyses` reads the paper's findings off the map, `words`, `pictures` and `page` show a reading, `deletion` tests
whether its votes name what decides. `language` is what more there is to read of language models.
"""

from linmap.interpret.linearscope.analyses import (
    BiasContribution,
    Comb,
    CopyMap,
    FilterBank,
    Gabor,
    bias_split,
    comb,
    copy_map,
    filter_bank,
    fit_gabor,
    template_share,
)
from linmap.interpret.linearscope.deletion import class_probabilities, gradient_of_top, probability_left
from linmap.interpret.linearscope.interpreter import AffineInterpreter
from linmap.interpret.linearscope.language import LanguageReading
from linmap.interpret.linearscope.mixing import (
    AttentionMap,
    attention_maps,
    rollout,
    token_contributions,
    token_shares,
)
from linmap.interpret.linearscope.parts import block, part
from linmap.interpret.linearscope.pictures import draw_outputs, draw_reading, draw_signed, draw_votes
from linmap.interpret.linearscope.proof import InexactReadingError
from linmap.interpret.linearscope.receptive import Reach, ReceptiveFieldError, projective_field
from linmap.interpret.linearscope.rules import register_rule
from linmap.interpret.linearscope.scope import LinearScope
from linmap.interpret.linearscope.trace import UnknownOperationError
from linmap.interpret.linearscope.words import bias_share_in_words, class_names, explained, output_in_words

__all__ = [
    "AffineInterpreter",
    "AttentionMap",
    "BiasContribution",
    "Comb",
    "CopyMap",
    "FilterBank",
    "Gabor",
    "InexactReadingError",
    "LanguageReading",
    "LinearScope",
    "Reach",
    "ReceptiveFieldError",
    "UnknownOperationError",
    "attention_maps",
    "bias_share_in_words",
    "bias_split",
    "block",
    "class_names",
    "class_probabilities",
    "comb",
    "copy_map",
    "draw_outputs",
    "draw_reading",
    "draw_signed",
    "draw_votes",
    "explained",
    "filter_bank",
    "fit_gabor",
    "gradient_of_top",
    "output_in_words",
    "part",
    "probability_left",
    "projective_field",
    "register_rule",
    "rollout",
    "template_share",
    "token_contributions",
    "token_shares",
]
