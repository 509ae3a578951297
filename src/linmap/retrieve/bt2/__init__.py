"""BT²: change the embedding model, keep the index (arXiv 2211.03989)."""

from linmap.retrieve.bt2.backfill import BackfillCurve, backfill_curve, verdict
from linmap.retrieve.bt2.choosing import Method
from linmap.retrieve.bt2.evaluation import (
    RetrievalScores,
    TextScores,
    cross_retrieval,
    nearest_rows,
    text_scores,
)
from linmap.retrieve.bt2.files import transform_files
from linmap.retrieve.bt2.frozen import FittedMap, closed_bases, procrustes
from linmap.retrieve.bt2.gallery import Gallery
from linmap.retrieve.bt2.head import BasisTransformHead, ExportedHead, HeadOutput, basis_transform, fold
from linmap.retrieve.bt2.mixed import Calibration, calibrate, mixed_scores, search_mixed
from linmap.retrieve.bt2.training import PAPER, BT2Loss, parameter_groups, pseudo_classifier
from linmap.retrieve.bt2.upgrade import EmbeddingUpgrade

__all__ = [
    "PAPER",
    "BT2Loss",
    "BackfillCurve",
    "BasisTransformHead",
    "Calibration",
    "EmbeddingUpgrade",
    "ExportedHead",
    "FittedMap",
    "Gallery",
    "HeadOutput",
    "Method",
    "RetrievalScores",
    "TextScores",
    "backfill_curve",
    "basis_transform",
    "calibrate",
    "closed_bases",
    "cross_retrieval",
    "fold",
    "mixed_scores",
    "nearest_rows",
    "parameter_groups",
    "procrustes",
    "pseudo_classifier",
    "search_mixed",
    "text_scores",
    "transform_files",
    "verdict",
]
