"""Training state between frameworks: the parts of a checkpoint, and its optimizers and schedulers in either dialect.

Pure functions from tree to tree; no framework is imported, and tensors are read when the result is.
"""

from .optimizer_states import merged, translate_optimizer
from .optimizers import OPTIMIZERS, is_optimizer_state, optimizer_dialect
from .parts import WEIGHT_KEYS, Part, TrainingParts, find_parts, weights_path
from .report import TranslateReport
from .schedulers import SCHEDULERS, is_scheduler_state, scheduler_dialect, translate_scheduler
from .translate import translate

__all__ = [
    "OPTIMIZERS",
    "SCHEDULERS",
    "WEIGHT_KEYS",
    "Part",
    "TrainingParts",
    "TranslateReport",
    "find_parts",
    "is_optimizer_state",
    "is_scheduler_state",
    "merged",
    "optimizer_dialect",
    "scheduler_dialect",
    "translate",
    "translate_optimizer",
    "translate_scheduler",
    "weights_path",
]
