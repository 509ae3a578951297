"""MBAT for JSON: records of known classes, binding at depth, and reading values back from a vector."""

from studies.mbat.classes import countries, patients, resources
from studies.mbat.memory import capacity, decoding, depth
from studies.study import Protocol

PROTOCOLS = [
    Protocol("patients", "Do near vectors mean the same diagnosis, for 418 patients?", patients),
    Protocol(
        "resources",
        "Do near vectors mean the same kind of FHIR resource?",
        resources,
        "json/fhir_resources.jsonl in LINMAP_DATA",
    ),
    Protocol(
        "countries",
        "Do near vectors mean the same region, where words inside of keys decide?",
        countries,
        "json/countries.jsonl in LINMAP_DATA",
    ),
    Protocol("depth", "What do orthogonal and Gaussian matrices leave of a value, level by level?", depth),
    Protocol("capacity", "How many values of random records come back from one vector?", capacity),
    Protocol("decoding", "How many values of real patients come back from one vector?", decoding),
]
