"""Training state between frameworks: the parts of a checkpoint, and its optimizers and schedulers in any dialect.

Pure functions from tree to tree; no framework is imported, and tensors are read when the result is.
"""

from __future__ import annotations

from .candidates import WEIGHT_KEYS
from .crossing import translate_optimizer, translate_scheduler
from .dialects import (
    DIALECTS,
    Dialect,
    dialect_named,
    dialects_to_write,
    is_optimizer_state,
    is_scheduler_state,
    optimizer_dialect,
    scheduler_dialect,
)
from .merging import merged
from .neutral import NeutralState
from .optimizers import OPTIMIZERS
from .parts import Part, TrainingParts
from .report import TranslateReport
from .schedulers import SCHEDULERS
from .search import find_parts, is_ours
from .translate import frameworks_of, translate
from .verdict import (
    Carried,
    PartVerdict,
    RunVerdict,
    VerdictReport,
    has_random_state,
    judge_checkpoint,
    judge_move,
    keys_below,
)
from .weights import choose_weights, count_parameters, size_of

__all__ = [
    "DIALECTS",
    "OPTIMIZERS",
    "SCHEDULERS",
    "WEIGHT_KEYS",
    "Carried",
    "Dialect",
    "NeutralState",
    "Part",
    "PartVerdict",
    "RunVerdict",
    "TrainingParts",
    "TranslateReport",
    "VerdictReport",
    "choose_weights",
    "count_parameters",
    "dialect_named",
    "dialects_to_write",
    "find_parts",
    "frameworks_of",
    "has_random_state",
    "is_optimizer_state",
    "is_ours",
    "is_scheduler_state",
    "judge_checkpoint",
    "judge_move",
    "keys_below",
    "merged",
    "optimizer_dialect",
    "scheduler_dialect",
    "size_of",
    "translate",
    "translate_optimizer",
    "translate_scheduler",
]
