"""Fine-tune a pretrained model of Transformers on texts with an adapter; save, load and use what comes of it.

>>> tuned = fine_tune("train.jsonl", BoneConfig(r=64), model="smollm2-135m")  # doctest: +SKIP
>>> tuned.save("runs/mine")  # doctest: +SKIP
>>> tuned = FineTuned.load("runs/mine")  # doctest: +SKIP
>>> tuned.complete(read_prompts("test.jsonl", "language"))  # doctest: +SKIP
>>> tuned.write_merged("mine-merged")  # doctest: +SKIP

A file whose records have labels gives a classifier: an encoder with the adapter, and a linear head (`classify`).
"""

from linmap.adapt.finetuning.training import DEFAULT_MODELS, DEFAULT_TRAINING, fine_tune
from linmap.adapt.finetuning.tuned import FineTuned

__all__ = ["DEFAULT_MODELS", "DEFAULT_TRAINING", "FineTuned", "fine_tune"]
