"""Tooth arrangement (TADPM, arXiv 2312.15139): simulated pairs with one right set-up or two, and whole meshes."""

from studies.study import Protocol
from studies.tooth_arrangement.encoders import encoders
from studies.tooth_arrangement.plans import plans
from studies.tooth_arrangement.tasks import one_set_up, two_set_ups

PROTOCOLS = [
    Protocol(
        "one-set-up", "How near do diffusion, regression and a mean arch come where one set-up is right?", one_set_up
    ),
    Protocol(
        "two-set-ups", "Does a diffusion earn its place where two set-ups are right and none is said?", two_set_ups
    ),
    Protocol("plans", "Are ranked plans free of contacts, and a folder of 28 meshes planned in half a minute?", plans),
    Protocol(
        "encoders", "Does it help to read the teeth as meshes, as the paper does, and to pre-train for it?", encoders
    ),
]
