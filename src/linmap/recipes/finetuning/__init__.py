"""Fine-tuning on the user's own texts, once for all methods of the room `adapt`."""

from linmap.recipes.finetuning.applying import apply
from linmap.recipes.finetuning.fitting import Method, fit
from linmap.recipes.finetuning.settings import Answering, FineTuning

__all__ = ["Answering", "FineTuning", "Method", "apply", "fit"]
