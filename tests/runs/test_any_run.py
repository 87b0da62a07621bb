"""Whatever a run does, no save replaces another, and a resume goes on after the last save, with its weights."""

import random
import shutil

import pytest
from saved_epochs import weights

from multiframe_ckpt import CheckpointManager


class AnyRun:
    """A run that saves by either clock, goes back, and is fetched and copied, as chance has it."""

    def __init__(self, folder, chance):
        self.top, self.chance, self.copies, self.value, self.last = folder, chance, 0, 0, None
        self.format = chance.choice(["torch", "oneflow", "safetensors"])
        self.options = {"max_to_keep": chance.choice([None, 1, 3]), "keep_best": chance.choice([0, 1, 2]), "rng": False}
        self.begin(folder / "0")

    def begin(self, folder):
        self.folder = folder
        self.manager = CheckpointManager(folder, format=self.format, **self.options)

    def save(self):
        epoch, step = self.chance.randrange(4), self.chance.randrange(9)
        clocks = self.chance.choice([{"epoch": epoch}, {"step": step}, {"epoch": epoch, "step": step}])
        self.value += 1
        before = self.content()
        self.manager.save(model=weights(self.value), loss=self.chance.random(), **clocks)
        after = self.content()
        assert all(after[name] == raw for name, raw in before.items() if name in after)
        if self.options["max_to_keep"] is None:
            assert set(before.values()) <= set(after.values())  # a copy of one may have given way to a link
        self.last = clocks

    def content(self):
        files = (path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        return {path: path.read_bytes() for path in files if not any(above.is_symlink() for above in path.parents)}

    def go_back(self):
        record = self.chance.choice(self.manager.checkpoints())
        assert self.manager.resume(model=weights(), which=record.path).ended == record.position

    def fetch(self):
        """Goes on from what the pointers lead to, of which no more is there."""
        self.copies += 1
        folder = self.top / str(self.copies)
        folder.mkdir()
        for pointer in self.folder.glob("[bl]*"):
            if pointer.name.startswith("latest") or self.chance.random() < 0.5:
                copy = shutil.copytree if pointer.is_dir() else shutil.copyfile
                copy(pointer, folder / pointer.name)
        self.begin(folder)

    def move(self):
        """Goes on in a copy, in which pointers may have become what they led to."""
        self.copies += 1
        folder = self.top / str(self.copies)
        shutil.copytree(self.folder, folder, symlinks=self.chance.random() < 0.5)
        self.format = self.chance.choice([self.format, "npz"])
        self.begin(folder)

    def check(self):
        model = weights()
        start = self.manager.resume(model=model)
        assert (start.ended.epoch, start.ended.step) == (self.last.get("epoch"), self.last.get("step"))
        assert (start.within_epoch, model["l1.bias"].tolist()) == (len(self.last) == 2, [self.value] * 3)
        assert all(record.complete for record in self.manager.checkpoints())


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_run_does_no_save_replaces_another_and_a_resume_goes_on_after_the_last(tmp_path, seed):
    run = AnyRun(tmp_path, random.Random(seed))
    run.save()
    for _ in range(20):
        run.chance.choice([run.save, run.save, run.save, run.go_back, run.fetch, run.move])()
        run.check()
