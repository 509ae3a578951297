"""Language models: what every token adds, in which words the model works, and what it would say at every layer.

`reading` is the way in (`LinearScope.text`), `tokens` shows tokens safely, `streams` finds the residual stream on the
tape, `directions` decodes singular vectors, `lens` reads every layer, `summary` gathers all of it and `shown` puts it
on a page, `faithfulness` tests whether scores name the tokens that decide, those of `rivals` among them.
"""

from linmap.interpret.linearscope.language.directions import Direction
from linmap.interpret.linearscope.language.lens import Lens
from linmap.interpret.linearscope.language.reading import Contributions, LanguageReading, Prediction, read_text
from linmap.interpret.linearscope.language.tokens import Token

__all__ = ["Contributions", "Direction", "LanguageReading", "Lens", "Prediction", "Token", "read_text"]
