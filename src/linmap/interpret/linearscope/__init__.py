"""linearscope: read a network as one affine map per input (Navarrete Michelini et al., ICCV 2019).

`scope` checks the model and the input, `trace` watches one pass, `rules` says what every operation becomes, `tape`
replays it, `interpreter` is the map, `receptive` proves how far a pixel reaches, `analyses` reads the paper's findings
off the map.
"""

from linmap.interpret.linearscope.interpreter import AffineInterpreter
from linmap.interpret.linearscope.rules import register_rule
from linmap.interpret.linearscope.scope import LinearScope
from linmap.interpret.linearscope.trace import UnknownOperationError

__all__ = ["AffineInterpreter", "LinearScope", "UnknownOperationError", "register_rule"]
