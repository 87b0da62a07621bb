"""One case of cases.py, the one that the environment variable CASE names, for a fault injector to run."""

import os
import tempfile

from cases import CASES

_case = CASES[os.environ["CASE"]]
setup, save, check = _case.setup, _case.save, _case.check

with tempfile.TemporaryDirectory() as _folder:  # what is imported on first use is imported before any run is forked
    setup(_folder)
    check(_folder)
