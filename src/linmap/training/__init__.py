"""The one training loop: seeds, schedules, precision, accumulation, progress, metrics, checkpoints, exact resume."""

from linmap.training.batches import mean_loss
from linmap.training.config import TrainingConfig
from linmap.training.history import EpochRecord, TrainingHistory
from linmap.training.loop import train
from linmap.training.randomness import Dropout, private

__all__ = ["Dropout", "EpochRecord", "TrainingConfig", "TrainingHistory", "mean_loss", "private", "train"]
