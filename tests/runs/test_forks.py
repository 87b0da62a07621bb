"""Children of fork: of a manager they inherit no handler, no pause of the collector, no lock, no thread and no hook.

Each test is a program of its own, since a test process with a framework in it has threads, and must not fork. A child that
waits for what its parent alone could do would wait for ever: after a minute the program is ended, and the test fails.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

BEGINNING = """
import gc, os, signal, sys, threading
import numpy as np
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.formats.torch.zip_write import TorchPlan

WEIGHTS = {"w": np.zeros(4, np.float32)}
folder = sys.argv[1]

class Held:
    '''Saves begin to write, and go on when they are let go.'''
    def __init__(self):
        self.begun, self.go, real = threading.Event(), threading.Event(), TorchPlan.write
        def write(plan, *rest):
            self.begun.set()
            assert self.go.wait(60)
            real(plan, *rest)
        TorchPlan.write = write

def child(work):
    '''What a child of fork says, and the status it ends with.'''
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        status = 1
        try:
            os.write(writing, str(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def terminated():
    '''How a child ends that is told to, and would go on otherwise.'''
    ready, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, b"?")
            for _ in range(1000):
                os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os._exit(3)
    os.read(ready, 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def said_by(program: str, folder: object) -> list[str]:
    """Gives the lines that a program prints; nothing that it forked lives on."""
    # Python 3.12 warns of a fork beside threads, which is what is tried here.
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        BEGINNING + textwrap.dedent(program),
        str(folder),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, errors) == (0, "")
    return output.splitlines()


# Signals


def test_a_child_dies_of_sigterm_and_its_parent_does_not(tmp_path):
    program = """
        with CheckpointManager(folder, save_on_sigterm=True) as manager:
            print(terminated() == -signal.SIGTERM, manager.preempted)
            os.kill(os.getpid(), signal.SIGTERM)
            print(manager.preempted)
            print(child(lambda: manager.preempted))
    """
    assert said_by(program, tmp_path) == ["True False", "True", "('False', 0)"]


def test_a_child_of_a_run_with_two_managers_dies_of_sigterm_and_one_whose_manager_is_gone(tmp_path):
    program = """
        managers = [CheckpointManager(f"{folder}/{name}", save_on_sigterm=True) for name in "abc"]
        print(terminated())
        managers[1].close()
        print(terminated())
        del managers
        gc.collect()
        print(terminated())
    """
    assert said_by(program, tmp_path) == ["-15"] * 3


@pytest.mark.parametrize("before", ["a handler", "SIG_IGN", "SIG_DFL"])
def test_a_child_has_the_handler_that_was_there_before(tmp_path, before):
    program = f"""
        def own(*_): pass
        own = {{"a handler": own, "SIG_IGN": signal.SIG_IGN, "SIG_DFL": signal.SIG_DFL}}[{before!r}]
        signal.signal(signal.SIGTERM, own)
        manager = CheckpointManager(folder, save_on_sigterm=True)
        print(child(lambda: signal.getsignal(signal.SIGTERM) == own))
        print(signal.getsignal(signal.SIGTERM) == own)
    """
    assert said_by(program, tmp_path) == ["('True', 0)", "False"]


def test_a_child_that_a_thread_forks_dies_of_sigterm_too(tmp_path):
    program = """
        manager, ends = CheckpointManager(folder, save_on_sigterm=True), []
        thread = threading.Thread(target=lambda: ends.append(terminated()))
        thread.start()
        thread.join()
        print(ends)
    """
    assert said_by(program, tmp_path) == ["[-15]"]


def test_a_handler_of_the_program_that_calls_ours_ends_a_child(tmp_path):
    program = """
        manager = CheckpointManager(folder, save_on_sigterm=True)
        ours = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
        print(terminated())
    """
    assert said_by(program, tmp_path) == ["-15"]


def test_a_daemon_of_multiprocessing_does_not_hold_up_the_end_of_the_program(tmp_path):
    program = """
        import multiprocessing
        manager = CheckpointManager(folder, save_on_sigterm=True)
        context = multiprocessing.get_context("fork")
        begun = context.Event()
        context.Process(target=lambda: (begun.set(), signal.pause(), signal.pause()), daemon=True).start()
        print(begun.wait(30))
    """
    assert said_by(program, tmp_path) == ["True"]


# The collector


def test_a_child_forked_while_a_save_is_written_collects(tmp_path):
    program = """
        held = Held()
        with CheckpointManager(folder, async_save=True) as manager:
            manager.save(0, WEIGHTS)
            held.begun.wait(60)
            print(child(gc.isenabled), gc.isenabled())
            held.go.set()
    """
    assert said_by(program, tmp_path) == ["('True', 0) True"]


PAUSED = """
    from multiframe_ckpt.tree.gc_pause import gc_paused
    paused, go, said = threading.Event(), threading.Event(), []
    def fork():
        paused.wait(60)
        said.append(child(collects))
        go.set()
    def collects():
        inherited = gc.isenabled()
        with gc_paused():
            inside = gc.isenabled()
        return inherited, inside, gc.isenabled()
    thread = threading.Thread(target=fork)
    thread.start()
    with gc_paused():
        paused.set()
        go.wait(60)
    thread.join()
    print(said, gc.isenabled())
"""


def test_a_child_forked_during_a_pause_of_the_collector_collects_and_can_pause_it_itself(tmp_path):
    assert said_by(PAUSED, tmp_path) == ["[('(True, False, True)', 0)] True"]


def test_a_child_of_a_program_that_does_not_collect_does_not_either(tmp_path):
    program = "    gc.disable()\n" + PAUSED
    assert said_by(program, tmp_path) == ["[('(False, False, False)', 0)] False"]


def test_a_child_that_goes_on_within_its_parents_pause_collects_during_it_and_after(tmp_path):
    program = """
        from multiframe_ckpt.tree.gc_pause import gc_paused
        def work():
            with gc_paused():
                pass
            return gc.isenabled()
        with gc_paused():
            pid = os.fork()
        if pid == 0:
            os._exit(0 if gc.isenabled() and work() else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), gc.isenabled())
    """
    assert said_by(program, tmp_path) == ["0 True"]


# Threads and locks


@pytest.mark.parametrize("call", ["wait()", "close()", "save(7, WEIGHTS)", "restore(model=WEIGHTS)", "latest()"])
def test_no_call_of_a_child_waits_for_the_save_of_its_parent(tmp_path, call):
    program = f"""
        CheckpointManager(folder).save(0, WEIGHTS)
        held = Held()
        manager = CheckpointManager(folder, async_save=True)
        manager.save(1, WEIGHTS)
        held.begun.wait(60)
        print(child(lambda: (held.go.set(), manager.{call}) and "done"))
        held.go.set()
        manager.close()
        print(manager.latest().epoch)
    """
    (first, second) = said_by(program, tmp_path)
    assert first == "('done', 0)"
    assert second in ("1", "7")


def test_the_error_of_a_parents_save_comes_out_of_no_call_of_a_child(tmp_path):
    program = """
        def fail(*_): raise OSError(5, "no disk")
        TorchPlan.write = fail
        manager = CheckpointManager(folder, async_save=True)
        manager.save(0, WEIGHTS)
        manager._writer._worker._thread.join()
        print(child(lambda: manager.wait()))
        try:
            manager.wait()
        except OSError as problem:
            print(problem)
    """
    assert said_by(program, tmp_path) == ["('None', 0)", "[Errno 5] no disk"]


def test_a_child_forked_while_bands_are_read_reads_bands(tmp_path):
    program = """
        from multiframe_ckpt.tree import bands
        bands._memory._lock.acquire()  # as a thread that reads does
        def work():
            with bands._memory.stream(), bands._memory.band():
                return "read"
        print(child(work))
    """
    assert said_by(program, tmp_path) == ["('read', 0)"]


def test_the_temporary_of_a_run_that_was_killed_is_removed_although_its_children_live(tmp_path):
    program = """
        held, ready = Held(), os.pipe()
        pid = os.fork()
        if pid == 0:
            manager = CheckpointManager(folder, async_save=True)
            manager.save(0, WEIGHTS)
            held.begun.wait(60)
            if os.fork() == 0:  # a worker, which outlives the run
                os.write(ready[1], f"{os.getpid()}".encode())
                signal.pause()
            signal.pause()
        worker = int(os.read(ready[0], 20))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        left = [name for name in os.listdir(folder) if name.endswith("tmp")]
        CheckpointManager(folder)
        print(len(left), [name for name in os.listdir(folder) if name.endswith("tmp")])
        os.kill(worker, signal.SIGKILL)
    """
    assert said_by(program, tmp_path) == ["1 []"]


def test_a_child_that_ends_within_a_save_of_its_parent_removes_nothing_of_it(tmp_path):
    program = """
        from pathlib import Path
        from multiframe_ckpt.storage.atomic import stage_for
        with stage_for(Path(folder, "x")) as stage:
            pid = os.fork()
            if pid:
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), stage.exists())
        if pid == 0:
            os._exit(0)
        print(stage.exists())
    """
    assert said_by(program, tmp_path) == ["0 True", "False"]


# A framework's own processes


def test_the_workers_of_a_data_loader_forked_during_a_save_inherit_nothing(tmp_path):
    pytest.importorskip("torch")
    program = """
        import torch
        torch.set_num_threads(1)
        class Seen(torch.utils.data.Dataset):
            def __len__(self):
                return 4
            def __getitem__(self, index):
                return gc.isenabled(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        held = Held()
        with CheckpointManager(folder, async_save=True, save_on_sigterm=True) as manager:
            manager.save(0, WEIGHTS)
            held.begun.wait(60)
            loader = torch.utils.data.DataLoader(
                Seen(), num_workers=2, batch_size=None, multiprocessing_context="fork", collate_fn=tuple
            )
            print({tuple(item) for item in loader})
            held.go.set()
    """
    assert said_by(program, tmp_path) == ["{(True, True)}"]


def test_a_child_trains_on_although_its_parent_holds_the_optimizer_back(tmp_path):
    pytest.importorskip("torch")
    program = """
        import torch
        from multiframe_ckpt.runs import gate
        torch.set_num_threads(1)
        go = threading.Event()
        class Late(gate.Copying):
            def finish(self):
                assert go.wait(60)
                super().finish()
        gate.Copying = Late
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(1, 2)).sum().backward()
        manager = CheckpointManager(folder, async_save="gated")
        manager.save(0, model, optimizer)
        print(child(lambda: (optimizer.step(), manager.wait_before_update(), len(optimizer._optimizer_step_pre_hooks))[2]))
        go.set()
        manager.wait()
        print(len(optimizer._optimizer_step_pre_hooks))
        manager.close()
    """
    assert said_by(program, tmp_path) == ["('0', 0)", "1"]
