"""What moves bytes: pieces of memory that are used over and over."""

import subprocess
import sys

FORKED = """
import os
from multiframe_ckpt.storage import transfer
piece = transfer._buffer()
piece[:4] = b"ours"
child = os.fork()
if child == 0:
    transfer._buffer()[:4] = b"mine"
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(bytes(piece[:4]).decode())
"""


def test_a_forked_process_does_not_write_into_its_parents_piece():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert done.stdout == "ours\n"
