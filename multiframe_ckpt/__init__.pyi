"""The public names, for type checkers: tests/test_public_names.py writes this file from __init__.py."""

from .backend import Backend as Backend
from .backend import BackendRecord as BackendRecord
from .backend import LoadReport as LoadReport
from .backend import Mismatch as Mismatch
from .backend import backends as backends
from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import load as load
from .checkpoint import open as open
from .checkpoint import save as save
from .checkpoint import save_whole_model as save_whole_model
from .checkpoint.checkpoint import PlannedSave as PlannedSave
from .checkpoint.position import Position as Position
from .checkpoint.restore import RestoreReport as RestoreReport
from .checkpoint.resume_check import ResumeCheck as ResumeCheck
from .dtypes import DType as DType
from .errors import *  # noqa: F403
from .formats import Changes as Changes
from .formats import Plan as Plan
from .formats import WriteOptions as WriteOptions
from .operations.clean import CleanReport as CleanReport
from .operations.clean import clean as clean
from .operations.convert import ConvertReport as ConvertReport
from .operations.convert import convert as convert
from .operations.crossing import Crossing as Crossing
from .operations.diff import DiffReport as DiffReport
from .operations.diff import diff as diff
from .operations.differences import Change as Change
from .operations.inspect import InspectReport as InspectReport
from .operations.inspect import TensorRow as TensorRow
from .operations.inspect import inspect as inspect
from .operations.layout import Layout as Layout
from .operations.rules import Edits as Edits
from .operations.verify import VerifyReport as VerifyReport
from .operations.verify import verify as verify
from .progress import OnProgress as OnProgress
from .progress import Progress as Progress
from .runs.manager import CheckpointManager as CheckpointManager
from .runs.records import CheckpointRecord as CheckpointRecord
from .runs.resume_point import ResumePoint as ResumePoint
from .runs.run_folder import RunFolder as RunFolder
from .runs.script import add_checkpoint_arguments as add_checkpoint_arguments
from .runs.script import restore_or_train as restore_or_train
from .training import PartVerdict as PartVerdict
from .training import RunVerdict as RunVerdict
from .training import TranslateReport as TranslateReport
from .tree import Extent as Extent
from .tree import LazyTensor as LazyTensor
from .tree import TensorRef as TensorRef
from .tree import Tree as Tree
from .tree import Unknown as Unknown
from .tree import combine as combine
from .tree import partition as partition

__version__: str
