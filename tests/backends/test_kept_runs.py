"""CheckpointManager with real optimizers: what leaving them out saves and costs, and runs that change their framework."""

import pytest

import multiframe_ckpt as mfc
from multiframe_ckpt import CheckpointManager
from multiframe_ckpt.errors import CheckpointWarning

torch = pytest.importorskip("torch")
try:
    import oneflow
except Exception:  # absent, or the placeholder wheel, which raises RuntimeError
    oneflow = None


def run(optimizer="SGD", **options):
    """A model of a megabyte and its optimizer, after a step."""
    model = torch.nn.Linear(512, 512)
    options = options or {"SGD": {"lr": 0.1, "momentum": 0.9}, "Adam": {"lr": 0.1}}[optimizer]
    made = getattr(torch.optim, optimizer)(model.parameters(), **options)
    model(torch.ones(1, 512)).sum().backward()
    made.step()
    return model, made, torch.optim.lr_scheduler.StepLR(made, 1)


@pytest.mark.parametrize(("optimizer", "least", "most"), [("SGD", 0.49, 0.52), ("Adam", 0.33, 0.35)])
def test_without_its_optimizer_a_checkpoint_is_half_of_one_of_sgd_and_a_third_of_one_of_adam(
    tmp_path, optimizer, least, most
):
    model, made, scheduler = run(optimizer)
    sizes = [
        CheckpointManager(tmp_path / str(kept), save_optimizer=kept).save(0, model, made, scheduler).stat().st_size
        for kept in (True, False)
    ]
    print(f"{optimizer}: {sizes[0]:,} bytes with the optimizer, {sizes[1]:,} without")
    assert least < sizes[1] / sizes[0] < most


def test_resuming_without_the_optimizer_restores_the_rest_and_says_that_it_starts_fresh(tmp_path):
    model, optimizer, scheduler = run()
    manager = CheckpointManager(tmp_path, save_optimizer=False, monitor="acc", mode="max")
    manager.save(4, model, optimizer, scheduler, metrics={"acc": 0.5})
    fresh = torch.nn.Linear(512, 512)
    given = torch.optim.SGD(fresh.parameters(), lr=0.003, momentum=0.9)
    with pytest.warns(CheckpointWarning, match=r"optimizer: .*starts fresh, with the learning rate .*0\.003"):
        report = CheckpointManager(tmp_path).restore(model=fresh, optimizer=given)
    assert torch.equal(fresh.weight, model.weight)
    assert (report.epoch, report.metrics, report.restored) == (4, {"acc": 0.5}, ("model", "rng"))
    assert (given.param_groups[0]["lr"], dict(given.state)) == (0.003, {})


def test_the_record_of_a_checkpoint_says_whether_its_optimizer_is_there(tmp_path):
    model, optimizer, scheduler = run()
    manager = CheckpointManager(tmp_path)
    manager.save(0, model, optimizer, scheduler)
    manager.save(1, model)
    assert [record.has_optimizer for record in manager.checkpoints()] == [True, False]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch 2.0 warns of its own reading
def test_a_kept_checkpoint_is_an_ordinary_file(tmp_path):
    model, optimizer, scheduler = run()
    CheckpointManager(tmp_path).save(0, model, optimizer, scheduler, loss=torch.tensor(0.5))
    found = torch.load(tmp_path / "latest_checkpoint.pth", weights_only=True)
    assert (found["epoch"], found["loss"]) == (0, 0.5)
    assert torch.equal(found["model_state_dict"]["weight"], model.weight)
    optimizer.load_state_dict(found["optimizer_state_dict"])


def test_tied_weights_are_still_one_when_they_were_saved_in_the_background(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with CheckpointManager(tmp_path, async_save=True) as manager:
        path = manager.save(0, model)
    state = mfc.load(path, backend="torch")["model_state_dict"]
    assert state["0.weight"].data_ptr() == state["1.weight"].data_ptr()


def test_a_resume_that_stands_where_the_checkpoint_says_passes_the_check(tmp_path):
    CheckpointManager(tmp_path).save(0, *run("Adam"))
    model, optimizer, scheduler = run("Adam")
    manager = CheckpointManager(tmp_path)
    manager.resume(model=model, optimizer=optimizer, scheduler=scheduler)
    check = mfc.open(manager.latest().path).resume_check(model=model, optimizer=optimizer, scheduler=scheduler)
    assert check.warm


@pytest.mark.skipif(oneflow is None, reason="needs real OneFlow")
def test_a_run_kept_in_torch_is_resumed_in_oneflow_and_back(tmp_path):
    model, optimizer, scheduler = run()
    CheckpointManager(tmp_path).save(0, model, optimizer, scheduler, loss=0.1)
    other = oneflow.nn.Linear(512, 512)
    sgd = oneflow.optim.SGD(other.parameters(), lr=0.5, momentum=0.9)
    steps = oneflow.optim.lr_scheduler.StepLR(sgd, 1)
    manager = CheckpointManager(tmp_path, format="oneflow")
    assert manager.resume(model=other, optimizer=sgd, scheduler=steps).epoch == 1
    assert (other.weight.numpy() == model.weight.detach().numpy()).all()
    manager.save(1, other, sgd, steps, loss=0.1)
    back, optimizer, scheduler = run()
    assert CheckpointManager(tmp_path).resume(model=back, optimizer=optimizer, scheduler=scheduler).epoch == 2
    assert torch.equal(back.weight, model.weight)


@pytest.mark.skipif(oneflow is None, reason="needs real OneFlow")
def test_a_gated_save_in_oneflow_copies_at_once_until_the_program_waits_before_its_updates(tmp_path):
    model = oneflow.nn.Linear(64, 64)
    optimizer = oneflow.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    expected, paths, waiting = [], [], []
    with CheckpointManager(tmp_path, async_save="gated") as manager:
        close = manager._writer._gate.close
        manager._writer._gate.close = lambda copies: (waiting.append(len(copies)), close(copies))[1]
        for epoch in range(3):
            model(oneflow.ones(1, 64)).sum().backward()
            if epoch:
                manager.wait_before_update()
            optimizer.step()
            optimizer.zero_grad()
            expected.append(model.weight.numpy().copy())
            if epoch:
                paths.append(manager.save(epoch, model, optimizer))
            else:
                with pytest.warns(CheckpointWarning, match="found SGD, expected an optimizer with hooks"):
                    paths.append(manager.save(epoch, model, optimizer))
    assert waiting == [0, 4, 4]  # weight and bias, and the momentum of each
    for path, weight in zip(paths, expected, strict=True):
        assert (mfc.open(path).tensors()["model_state_dict/weight"].numpy() == weight).all()
