"""PyTorch training that restarts on any number of nodes and GPUs: `Elastic`, and its parts for loops of one's own."""

from __future__ import annotations

from .elastic import Elastic
from .noise import GradientNoise
from .rules import learning_rate_factor
from .sampler import EpochStream, StepPlan, micro_batches

__all__ = ["Elastic", "EpochStream", "GradientNoise", "StepPlan", "learning_rate_factor", "micro_batches"]
