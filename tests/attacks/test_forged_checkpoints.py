"""Checkpoints that are whole, and say what cannot be: they are refused before a step is made, or change nothing."""

import zipfile
from pathlib import Path

import pytest
import torch

from attacks import ABSENT, QUICK, Canary, put, refused, save
from spl import InputError, PruneAtInit, SparseClassifier
from spl.callbacks import JacobianSpectrum
from spl.callbacks.safety.checkpoint_io import WholeCheckpoints
from spl.data.tensors import ImageTensors, TrainLoader
from spl.files import read_checkpoint

NAN, INF = float("nan"), float("inf")
GROUP = ("optimizer_states", 0, "param_groups", 0)
STATE = ("optimizer_states", 0, "state")
FIT = ("loops", "fit_loop")
EPOCHS = (*FIT, "epoch_progress")
SCHEDULE = ("lr_schedulers", 0)


def best(checkpoint):
    """Return the key of the state of ModelCheckpoint."""
    return next(key for key in checkpoint["callbacks"] if key.startswith("ModelCheckpoint"))


FORGED = [
    (("epoch",), -5, "epoch is -5, not a whole number"),
    (("epoch",), 1e30, r"epoch is 1e\+30, not"),
    (("epoch",), 2**60, "epoch is 1152921504606846976, not"),
    (("epoch",), True, "epoch is True, not"),
    (("epoch",), "2", "epoch is 2, not"),
    (("global_step",), -1, "global_step is -1, not"),
    (("global_step",), NAN, "global_step is nan, not"),
    (("global_step",), 10**400, "global_step is 1000000000000000000000000000.*, not"),
    (("global_step",), None, "global_step is None, not"),
    (("loops",), [], "loops is list, not dict"),
    (("callbacks",), 3, "callbacks is int, not dict"),
    ((*EPOCHS, "current", "completed"), -5, "completed is -5, not a whole number"),
    ((*EPOCHS, "total", "ready"), 10**30, "ready is 1000000000000000000000000000000, not"),
    ((*EPOCHS, "total", "ready"), 1.5, r"ready is 1\.5, not"),
    ((*EPOCHS, "total", "started"), torch.ones(3), "started is tensor"),
    ((*EPOCHS, "current", "reset_on_restart"), 1, "in the place of the method reset_on_restart"),
    ((*FIT, "epoch_loop.batch_progress", "increment_ready"), 1, "in the place of the method increment_ready"),
    ((*FIT, "epoch_loop.batch_progress", "total"), None, "total is None, not"),
    ((*FIT, "epoch_loop.batch_progress", "is_last_batch"), "x", "is_last_batch is 'x', not"),
    ((*FIT, "epoch_loop.scheduler_progress"), [1], r"epoch_loop.scheduler_progress is \[1\], not"),
    ((*FIT, "epoch_loop.batch_progress", "total", "ready"), {"a": 1}, r"ready is \{'a': 1\}, not"),
    ((*FIT, "epoch_loop.state_dict", "_batches_that_stepped"), "x", "_batches_that_stepped is 'x', not"),
    ((*FIT, "epoch_loop.state_dict", "_batches_that_stepped"), {"a": 1}, r"_batches_that_stepped is \{'a': 1\}, not"),
    (("loops", "validate_loop", "batch_progress", "current", "ready"), -1, "ready is -1, not"),
    ((*GROUP, "lr"), NAN, "lr is nan"),
    ((*GROUP, "lr"), INF, "lr is inf"),
    ((*GROUP, "lr"), -0.1, r"lr is -0\.1"),
    ((*GROUP, "lr"), "0.1", r"lr is '0\.1'"),
    ((*GROUP, "lr"), None, "lr is None"),
    ((*GROUP, "lr"), torch.tensor(NAN), r"lr is tensor\(nan\)"),
    ((*GROUP, "lr"), torch.ones(2), r"lr is tensor\(\[1"),
    ((*GROUP, "initial_lr"), INF, "initial_lr is inf"),
    ((*GROUP, "momentum"), NAN, "momentum is not a number"),
    ((*GROUP, "weight_decay"), NAN, "weight_decay is not a number"),
    (GROUP, 3, "groups of an optimizer are no dictionaries"),
    (GROUP[:2], [], r"the state of an optimizer is \[\]"),
    (STATE, [1], "state of an optimizer is no dictionary by parameter"),
    ((*GROUP, "params", 0), -5, "the state of a parameter that it does not train, or trains one twice"),
    ((*GROUP, "params", 0), None, "the state of a parameter that it does not train, or trains one twice"),
    ((*GROUP, "params", 0), 1, "the state of a parameter that it does not train, or trains one twice"),
    ((*STATE, 0), 3, "state of an optimizer is no dictionary by parameter"),
    ((*STATE, 0, "momentum_buffer"), lambda t: t.to(torch.int8), "momentum_buffer of parameter 0 is torch.int8"),
    ((*STATE, 0, "step"), -1, "step of parameter 0 is -1"),
    ((*STATE, 0, "step"), torch.tensor(NAN), r"step of parameter 0 is tensor\(nan\)"),
    (SCHEDULE, "x", "state of a schedule is 'x'"),
    ((*SCHEDULE, "step"), 1, "schedule has a value in the place of step"),
    ((*SCHEDULE, "get_lr"), "x", "schedule has a value in the place of get_lr"),
    ((*SCHEDULE, "optimizer"), None, "schedule has a value in the place of optimizer"),
    ((*SCHEDULE, "last_epoch"), -5, "schedule's last_epoch is -5"),
    ((*SCHEDULE, "last_epoch"), 1e30, r"schedule's last_epoch is 1e\+30"),
    ((*SCHEDULE, "gamma"), NAN, "schedule's gamma is not a number"),
    ((*SCHEDULE, "gamma"), "x", "schedule's gamma is 'x'"),
    ((*SCHEDULE, "base_lrs"), [NAN], r"schedule's base_lrs is \[nan\]"),
    ((*SCHEDULE, "base_lrs"), [-1.0], r"schedule's base_lrs is \[-1\.0\]"),
    ((*SCHEDULE, "_last_lr"), 0.1, r"schedule's _last_lr is 0\.1"),
]


@pytest.mark.parametrize(("path", "value", "match"), FORGED)
def test_numbers_that_cannot_be_are_refused(good, path, value, match):
    save(put(good, path, value))
    with pytest.raises(InputError, match=rf"^hostile\.ckpt was changed after it was written: .*{match}.* Give another"):
        WholeCheckpoints().load_checkpoint("hostile.ckpt")


FILES = [
    ("kth_best_model_path", "RUN/../../../precious", "is no checkpoint in the run's folder"),
    ("last_model_path", "s3://bucket/precious", "is no checkpoint in the run's folder"),
    ("best_model_path", 3, "best_model_path is 3"),
    ("best_k_models", {"memory://precious": torch.tensor(0.0)}, "is no checkpoint in the run's folder"),
    ("best_k_models", [1], "the best checkpoints are no dictionary by path"),
    ("best_k_models", {"RUN/best.ckpt": "x"}, "the scores of the best checkpoints are no numbers"),
    ("best_model_score", "x", "best_model_score is 'x'"),
    ("kth_value", torch.ones(2), r"kth_value is tensor"),
    ("dirpath", ["x"], "the best checkpoints are no dictionary by path"),
]


@pytest.mark.parametrize(("key", "value", "match"), FILES)
def test_best_checkpoints_are_in_the_folder_of_the_run(good, key, value, match):
    save(put(good, ("callbacks", best(good), key), value))
    with pytest.raises(InputError, match=match):
        WholeCheckpoints().load_checkpoint("hostile.ckpt")


@pytest.mark.parametrize("root", ["..", "../runs", "/runs", "runs/../other", "s3://runs", "."])
def test_best_checkpoints_may_be_in_any_folder(good, root):
    folder, files = f"{root}/checkpoints", {"best_k_models": {f"{root}/checkpoints/best.ckpt": torch.tensor(0.5)}}
    files |= {"dirpath": folder, "kth_best_model_path": f"{folder}/best.ckpt", "last_model_path": ""}
    for path in (f"{folder}/best.ckpt", "../earlier/checkpoints/best.ckpt", "/earlier/best.ckpt", ""):
        state = files | {"best_model_path": path}
        save(put(good, ("callbacks", best(good)), lambda old, new=state: old | new))
        WholeCheckpoints().load_checkpoint("hostile.ckpt")


def test_no_file_is_deleted_because_a_checkpoint_names_it_as_the_worst_of_the_best(good):
    Path("precious").mkdir()
    Path("precious/thesis.txt").touch()
    folder = "lightning_logs/quickstart/version_0/checkpoints"
    target = f"{folder}/../../../../precious"
    forged = {"dirpath": folder, "best_k_models": {target: torch.tensor(0.0)}, "kth_best_model_path": target}
    forged["kth_value"] = torch.tensor(0.0)
    save(put(good, ("callbacks", best(good)), lambda state: state | forged))
    refused(
        "no checkpoint in the run's folder", "fit", *QUICK, "--ckpt_path", "hostile.ckpt", "--trainer.max_epochs", 3
    )
    assert Path("precious/thesis.txt").exists()


MOVED = {
    "moved": lambda masks: {"fc2.weight": masks["fc2.weight"].flip(0)},
    "moved to another weight": lambda masks: {
        "fc2.weight": torch.zeros_like(masks["fc2.weight"]),
        "fc3.weight": torch.ones_like(masks["fc3.weight"]),
    },
}


def moved(good, change):
    """Return a checkpoint with other masks, and zeros where they are."""
    good = put(good, ("masks",), lambda masks: masks | change(masks))
    for name, mask in good["masks"].items():
        good["state_dict"][f"network.{name}"] *= mask
    return good


@pytest.mark.parametrize("change", MOVED.values(), ids=MOVED)
@pytest.mark.parametrize("version", ["now", "earlier"])
def test_masks_are_those_that_were_saved(good, change, version):
    if version == "earlier":
        del good["masks_sha256"]
    save(moved(good, change))
    match = (
        r"masks of the checkpoint are not those that were saved with it \(their SHA-256 is \w{12}…, but '\w+… is rec"
    )
    with pytest.raises(InputError, match=match):
        SparseClassifier.load_from_checkpoint("hostile.ckpt")


def test_masks_of_earlier_versions_without_a_record_are_taken(good):
    del good["masks_sha256"], good["callbacks"]
    save(moved(good, MOVED["moved"]))
    assert SparseClassifier.load_from_checkpoint("hostile.ckpt").masks is not None


def test_masks_that_were_set_after_pruning_come_back(finished, tmp_path):
    model = SparseClassifier.load_from_checkpoint(finished / "last.ckpt")
    model.set_masks(type(model.masks)({name: mask.flip(0) for name, mask in model.masks.items()}))
    checkpoint = torch.load(finished / "last.ckpt", weights_only=True)
    model.on_save_checkpoint(checkpoint)
    save(checkpoint | {"state_dict": model.state_dict()})
    assert SparseClassifier.load_from_checkpoint("hostile.ckpt").masks == model.masks


WEIGHT = ("state_dict", "network.fc2.bias")
WEIGHTS = [
    (lambda t: t.to(torch.int8), r"network\.fc2\.bias \(whole numbers, wanted floating point numbers\)"),
    (lambda t: t.bool(), r"\(whole numbers, wanted floating point numbers\)"),
    (lambda t: t.to(torch.complex64), r"\(complex numbers, wanted floating point numbers\)"),
    (lambda t: t.to_sparse(), "sparse"),
    (lambda t: t[:1], r"\(\(1,\), wanted \(20,\)\)"),
    (lambda t: t.tolist(), r"\(list, wanted \(20,\)\)"),
    (lambda t: t.numpy().tobytes(), r"\(bytes, wanted \(20,\)\)"),
]


@pytest.mark.parametrize(("value", "match"), WEIGHTS)
def test_weights_are_numbers_of_their_kind(good, value, match):
    save(put(good, WEIGHT, value))
    with pytest.raises(InputError, match=match):
        SparseClassifier.load_from_checkpoint("hostile.ckpt")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_in_another_precision_are_taken(good, dtype):
    save(put(good, WEIGHT, lambda t: t.to(dtype)))
    assert SparseClassifier.load_from_checkpoint("hostile.ckpt").network.fc2.bias.dtype == torch.float32


RESUMED = [
    ((*STATE, 2, "momentum_buffer"), torch.ones(1, 20), r"momentum_buffer .* has the shape \(1, 20\), its weight \(20"),
    ((*STATE, 2, "momentum_buffer"), torch.ones(1).expand(20, 20), "momentum_buffer of an optimizer share memory"),
    ((*GROUP, "momentum"), "x", "momentum of an optimizer is 'x'"),
    ((*GROUP, "momentum"), ABSENT, "an optimizer has no momentum"),
    (("callbacks", "PruneAtInit", "record", "sparsity"), NAN, r"sparsity must lie in \[0, 1\), got nan"),
    (("callbacks", "PruneAtInit", "record", "coverage"), {"x": 1}, "checkpoint cannot be restored"),
]


@pytest.mark.parametrize(("path", "value", "match"), RESUMED)
def test_a_fit_does_not_resume_from_a_state_that_is_not_its_own(good, path, value, match):
    save(put(good, path, value))
    refused(match, "fit", *QUICK, "--ckpt_path", "hostile.ckpt", "--trainer.max_epochs", 3)


RECORD = {"sparsity": 0.9, "coverage": {"covered": 1.0, "sparsity": 0.9, "dense": {}}}
STATES = [
    (PruneAtInit, {}),
    (PruneAtInit, {"record": 1}),
    (PruneAtInit, {"record": [1]}),
    (PruneAtInit, {"record": RECORD | {"sparsity": "x"}}),
    (PruneAtInit, {"record": RECORD | {"sparsity": 1.5}}),
    (PruneAtInit, {"record": RECORD | {"coverage": 3}}),
    (PruneAtInit, {"record": RECORD | {"coverage": RECORD["coverage"] | {"dense": "x"}}}),
    (PruneAtInit, {"record": RECORD, "changes": {"fc1.weight": [[1], [2], "x"]}}),
    (PruneAtInit, {"record": RECORD, "changes": {"fc1.weight": 3}}),
    (PruneAtInit, {"record": RECORD, "changes": [1]}),
    (JacobianSpectrum, {"dense": 3}),
    (JacobianSpectrum, {"dense": {"mean": 1.0}}),
    (JacobianSpectrum, {"dense": dict.fromkeys(["mean", "std", "max", "min", "condition"], "x")}),
]


@pytest.mark.parametrize(("callback", "state"), STATES)
def test_a_callback_takes_no_state_that_is_not_its_own_and_lightning_is_told_at_once(callback, state):
    with pytest.raises((InputError, TypeError, ValueError, KeyError, AttributeError)):
        callback().load_state_dict(state)


def test_an_optimizer_state_that_lacks_a_part_is_found_in_the_first_step(good):
    weights = [torch.nn.Parameter(tensor.clone()) for tensor in good["state_dict"].values()]
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    torch.stack([weight.sum() for weight in weights]).sum().backward()
    optimizer.step()
    save(put(good | {"optimizer_states": [optimizer.state_dict()]}, (*STATE, 0, "exp_avg"), ABSENT))
    adam = [*QUICK, "--model.optimizer", "torch.optim.Adam", "--model.optimizer.lr", 1e-3]
    match = r"Training cannot go on from the checkpoint \(KeyError: 'exp_avg'\)"
    refused(match, "fit", *adam, "--ckpt_path", "hostile.ckpt", "--trainer.max_epochs", 3)


POSITIONS = [
    "x",
    {},
    [1],
    {"epoch": 1},
    {"epoch": 1, "batches": -3},
    {"epoch": 1.5, "batches": 0},
    {"epoch": 0, "x": 0},
]


@pytest.mark.parametrize("position", POSITIONS)
def test_a_loader_goes_on_only_from_a_position(position):
    images = ImageTensors(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4))
    with pytest.raises(InputError, match=r"A loader of batches cannot go on from .*: the checkpoint was changed"):
        TrainLoader(images, 2, seed=0, rank=0, world_size=1).load_state_dict(position)


def rezipped(path, name="hostile.ckpt", **options):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(name, "w", **options) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))


def test_an_archive_that_grows_in_memory_is_refused(finished):
    rezipped(finished / "last.ckpt", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"it is truncated, damaged, or .* \(it is compressed, and torch\.save"):
        read_checkpoint("hostile.ckpt")


def test_an_archive_whose_parts_lie_over_each_other_is_refused(finished):
    rezipped(finished / "last.ckpt")
    with zipfile.ZipFile("hostile.ckpt", "a") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        archive.filelist += [largest] * 50
        archive._didModify = True
    with pytest.raises(InputError, match=r"its parts are larger together than the file"):
        read_checkpoint("hostile.ckpt")


@pytest.mark.parametrize("key", ["state_dict", "masks", "callbacks", "loops", "optimizer_states", "new"])
def test_nothing_is_executed_wherever_it_is(good, key):
    save(good | {key: Canary()})
    refused(r"more than tensors and plain values \(posix\.mkdir\)", "fit", *QUICK, "--ckpt_path", "hostile.ckpt")


@pytest.mark.parametrize("argument", ["depth", "width", "in_features"])
@pytest.mark.parametrize("value", [10**12, 10**400, -1, 1e30, "x", [[]]])
def test_a_network_of_impossible_size_is_refused_at_once(good, argument, value):
    save(put(good, ("network", "init_args", argument), value))
    refused("hostile.ckpt|must be at least 1|layers", "summary", "--ckpt_path", "hostile.ckpt")
