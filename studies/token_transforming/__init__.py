"""Token Transforming (Zeng et al., 2025): what fewer tokens keep of real models, and what they save."""

from functools import partial

from studies.study import Protocol
from studies.token_transforming import digits, labels, photographs, prefill, retrieval, thresholds, times

PROTOCOLS = [
    Protocol("photographs-224", "What is kept of DINOv2's features and of a saliency map restored from merged tokens?",
             partial(photographs.run, side=224)),
    Protocol("photographs-518", "The same with 1,370 tokens.", partial(photographs.run, side=518)),
    Protocol("thresholds", "ATM and ALGM take more tokens from plain photographs: does that keep more at equal cost?",
             thresholds.run),
    Protocol("retrieval", "Does MiniLM still find the right documents of Cranfield?", retrieval.run,
             needs="Cranfield, in LINMAP_DATA/retrieval"),
    Protocol("labels-98", "Does a linear classifier of digits on DINOv2's features notice, with 50 tokens?",
             partial(labels.classified, side=98)),
    Protocol("labels-196", "The same with 197 tokens.", partial(labels.classified, side=196)),
    Protocol("ultrasound", "Does a segmentation head that was trained on every token?", labels.segmented),
    Protocol("prefill", "What does a language model's next token lose when the prompt is merged, beside FastV?",
             prefill.run),
    Protocol("digits", "A small ViT trained on MNIST, then compressed: what is left of its accuracy?", digits.run),
    Protocol("times", "Seconds of DINOv2-small, one and two threads, one image and eight, in turn.", times.run),
]  # fmt: skip
