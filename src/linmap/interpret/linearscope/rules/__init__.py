"""Rules: what every operation of PyTorch's ATen level becomes for one input.

`affine` holds the operations that are linear or affine as they stand, `units` those that take a decision. A rule is a
function of a `Call` that returns `Frozen` (or a list of them, one per output), `None` for a decision (a constant of
x0) or a `Refusal`.
"""

from linmap.interpret.linearscope.rules.affine import AFFINE
from linmap.interpret.linearscope.rules.call import Answer, Call, Options, Refusal, Rule, plain
from linmap.interpret.linearscope.rules.registry import find_rule, register_rule
from linmap.interpret.linearscope.rules.units import UNITS

__all__ = ["AFFINE", "UNITS", "Answer", "Call", "Options", "Refusal", "Rule", "find_rule", "plain", "register_rule"]
