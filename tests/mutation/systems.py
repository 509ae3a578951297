"""Where the equations of each system stand, and which tests know them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class System:
    """The files of a method, and the tests that are its own."""

    folder: str
    files: str
    beside: str = ""
    """Tests of the room that know the method, too, and of a folder that stands on it."""

    def paths(self) -> list[Path]:
        return [ROOT / "src" / "linmap" / self.folder / f"{name}.py" for name in self.files.split()]

    def tests(self) -> list[Path]:
        return [ROOT / "tests" / name for name in [self.folder, *self.beside.split()]]


ADAPTERS = "adapt/test_contract.py adapt/test_transformed.py adapt/test_mixed_batches.py"
SYSTEMS = {
    "acm": System("signals/acm", "afnn autoregression estimation mdop neighbours patterns selection tangent transform"),
    "bone": System("adapt/bone", "layer legacy lora product transform", ADAPTERS),
    "bt2": System("retrieve/bt2", "choosing evaluation frozen head mixed ridge upgrade"),
    "flatquant": System(
        "compress/flatquant",
        "attention baselines block calibration distillation linear passes quantizer rounding transforms",
    ),
    "gbwbn": System("signals/gbwbn", "fronts layer network normalization recalibration", "signals/test_units.py"),
    "hippo": System(
        "sequence",
        "hippo/discretization hippo/matrices hippo/online s4/diagonal s4/inits s4/kernels s4/layers s4/low_rank"
        " s4/padding s4/stream",
    ),
    "householder_projector": System(
        "interpret/householder_projector",
        "changes directions features first_layer frechet isometry jacobian layers path_length reflections sefa weights",
    ),
    "learngene_pool": System(
        "compress/learngene_pool",
        "choice cost enumeration exchange inheritance losses members paths sampling starting stitches",
    ),
    "lie_decomposition": System(
        "shapes/lie_decomposition",
        "convolutions coordinates draws layer lifting network pooling projection siren",
    ),
    "linearscope": System(
        "interpret/linearscope",
        "deletion mixing parts passage rules/affine rules/moves rules/products rules/selections rules/units tape trace"
        " language/directions language/lens language/streams",
    ),
    "mbat": System(
        "retrieve/mbat", "bound_leaves capacity codebook decoding encoding learning leaves operators rarity search"
    ),
    "olinear": System("sequence/olinear", "bases conformal correlation folded held_out model normlin orthotrans revin"),
    "salt": System("adapt/salt", "basis inspection layer weight", ADAPTERS),
    "tinvnn": System(
        "shapes/tinvnn",
        "attention_model embedding frame graph_transform heuristics invariance mds networks scales signs symmetry ties"
        " tours wrapper",
    ),
    "token_transforming": System(
        "compress/token_transforming",
        "assignment attention blocks cost few flow gathering importance matching schedules similarity sparse"
        " token_transform transform",
    ),
    "tooth_arrangement": System(
        "shapes/tooth_arrangement",
        "arches augmentation denoiser diffusion features frames guidance losses metrics movements neighbours normals"
        " rotations shifts slots statistics targets tooth_set turns",
    ),
    "triadaptlora": System("adapt/triadaptlora", "allocator delta growth layer pieces slots steps", ADAPTERS),
}
