"""What fewer tokens keep of a model's answers, and what they save: one way at one budget beside the model as it is.

A `Subject` is a model with its inputs (`Images`, `Sentences`, `Prompts`), a `Way` is a transformation by name, and a
`Task` runs ways at budgets: agreement with the model as it is, multiply-adds, and seconds in turn. The command line and
the studies compare by it; a subject of your own needs `forward`, `features` and `scores`.
"""

from linmap.compress.token_transforming.evaluation.images import Images, LabelledImages
from linmap.compress.token_transforming.evaluation.measuring import Task
from linmap.compress.token_transforming.evaluation.pictures import draw_curves, draw_flows
from linmap.compress.token_transforming.evaluation.subject import Measure, Subject
from linmap.compress.token_transforming.evaluation.texts import Prompts, Sentences
from linmap.compress.token_transforming.evaluation.timing import in_turn
from linmap.compress.token_transforming.evaluation.ways import Way, decoder_ways, encoder_ways

__all__ = [
    "Images",
    "LabelledImages",
    "Measure",
    "Prompts",
    "Sentences",
    "Subject",
    "Task",
    "Way",
    "decoder_ways",
    "draw_curves",
    "draw_flows",
    "encoder_ways",
    "in_turn",
]
