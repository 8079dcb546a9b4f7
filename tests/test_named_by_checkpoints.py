"""A checkpoint is data: nothing that it names is imported or called, however it is spelled."""

import collections
import pickle
import re
import sys

import pytest
import torch
from commands import command
from fits import PLAIN
from pytorch_lightning import Trainer

from spl import InputError, SparseClassifier, classifier
from spl.criteria import Random
from spl.networks import MLP
from spl.pruning import prune

CANARY = """
from pathlib import Path
from torch import nn
Path("imported").touch()

def called(*args, **kwargs) -> nn.Module:
    Path("called").touch()
    return nn.Identity()

class Net(nn.Module):
    def __init__(self, **kwargs):
        called()
        super().__init__()
"""


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Yield the checkpoint of a small pruned MLP; a module in its folder reveals whether it is imported or called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "canary.py").write_text(CANARY)
    (tmp_path / "mlp.yaml").write_text("depth: 3\n")
    (tmp_path / "net.yaml").write_text("class_path: canary.Net\n")
    model = SparseClassifier(MLP(depth=3, width=5))
    model.set_masks(prune(model.network, Random(), sparsity=0.5))
    model.network_config = {"class_path": "spl.networks.MLP", "init_args": {"depth": 3, "width": 5}}
    trainer = Trainer(**PLAIN)
    trainer.strategy.connect(model)
    trainer.save_checkpoint("good.ckpt")
    yield torch.load("good.ckpt", weights_only=True)
    sys.modules.pop("canary", None)


def assert_untouched(tmp_path):
    assert not {"canary", "this"} & sys.modules.keys()
    assert not {"imported", "called"} & {path.name for path in tmp_path.iterdir()}


def named(class_path, **arguments):
    return {"class_path": class_path, "init_args": arguments}


def itself():
    """Return a list that contains itself."""
    inner = []
    inner.append(inner)
    return inner


def nested(width, depth):
    """Return lists nested to a depth, each with `width` references to the same list, which takes little memory."""
    inner = []
    for _ in range(depth):
        inner = [inner] * width
    return inner


COMMAND = {"cmd": "touch called", "encoding": None, "errors": None}
MLP_PATH = "spl.networks.MLP"
NETWORKS = {
    "a shell command": named("torch.fx.symbolic_trace", root="subprocess.getoutput", concrete_args=COMMAND),
    "an import": named("this.X"),
    "a class of another module": named("canary.Net"),
    "a function that returns a module": named("canary.called"),
    "a function that returns none": named("os.system", command="touch called"),
    "a class of torch": named("torch.nn.Conv2d", in_channels=3, out_channels=10, kernel_size=3),
    "a function of torchvision": named("torchvision.models.resnet18"),
    "a class in the arguments": named(MLP_PATH, width=named("canary.Net")),
    "a class in a list": named("spl.networks.FullyConnected", sizes=[784, [named("canary.called")]], activation="tanh"),
    "a class in further arguments": {"class_path": MLP_PATH, "dict_kwargs": {"x": named("canary.called")}},
    "a class within its parent's": named("torch.nn.Sequential", x=named("canary.Net")),
    "a callable": named("torchvision.ops.MLP", in_channels=4, hidden_channels=[4], norm_layer="canary.called"),
    "a path of a list": {"class_path": [MLP_PATH]},
    "a path of a number": {"class_path": 7},
    "a path of bytes": {"class_path": b"canary.Net"},
    "no path": {"init_args": {"depth": 3}},
    "a module behind ours": named("spl.networks.images.torch.hub.load", repo_or_dir=".", model="net", source="local"),
    "globals": named("spl.networks.MLP.__init__.__globals__"),
    "builtins": named("spl.networks.__builtins__"),
    "a method": named("spl.networks.MLP.forward"),
    "a class that is not public": named("spl.networks.residual.Block", fan_in=1, fan_out=1, stride=1, layers=1),
    "an import of ours": named("spl.networks.residual.OrderedDict"),
    "look-alike letters": named("spl.networks.\uff2d\uff2c\uff30"),
    "a space": named("spl.networks.MLP "),
    "a line": named("spl.networks.MLP\n"),
    "another case": named("spl.networks.mlp"),
    "a colon": named("spl.networks:MLP"),
    "nothing": named(""),
    "no network of ours": named("spl.criteria.Random"),
    "the classifier": named("spl.SparseClassifier", network=named("canary.Net")),
    "arguments in a file": {"class_path": MLP_PATH, "init_args": "mlp.yaml"},
    "arguments in YAML": {"class_path": MLP_PATH, "init_args": "depth: 3"},
    "a list of arguments": {"class_path": MLP_PATH, "init_args": [3, 5]},
    "keys of its own": {"class_path": MLP_PATH, "_instantiator": "canary.called"},
    "a name": MLP_PATH,
    "a name of ours and more": "canary.Net",
    "a file": "net.yaml",
    "a list": [named("canary.Net")],
    "a tensor": named(MLP_PATH, depth=torch.tensor(3)),
    "a type of numbers": named(MLP_PATH, depth=torch.float32),
    "a class by reference": named(MLP_PATH, depth=torch.Tensor),
    "a device": named(MLP_PATH, depth=torch.device("cpu")),
    "an ordered dictionary": named(MLP_PATH, depth=collections.OrderedDict(class_path="canary.Net")),
    "arguments in an ordered dictionary": {"class_path": MLP_PATH, "init_args": collections.OrderedDict(depth=3)},
    "a counter": named(MLP_PATH, depth=collections.Counter("canary")),
    "a set": named(MLP_PATH, depth={3}),
    "a size": named(MLP_PATH, depth=torch.Size([3])),
    "a complex number": named(MLP_PATH, depth=3j),
    "keys that are tensors": named(MLP_PATH, depth={torch.tensor(3): 3}),
    "a list of itself": named(MLP_PATH, depth=itself()),
    "lists of lists": named(MLP_PATH, depth=nested(100, 10)),
}  # fmt: skip
REMEDY = (
    r"^hostile\.ckpt asks for .*, and a checkpoint may ask only for a class of spl\.networks with plain "
    r"arguments\. In Python, .*: load_from_checkpoint\(path, network=\.\.\.\)\. On the command line, .*: --trust "
)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_network_outside_the_allow_list_is_neither_imported_nor_called(checkpoint, tmp_path, network):
    torch.save(checkpoint | {"network": network}, "hostile.ckpt")
    with pytest.raises(InputError, match=REMEDY):
        SparseClassifier.load_from_checkpoint("hostile.ckpt")
    assert_untouched(tmp_path)
    assert SparseClassifier.load_from_checkpoint("hostile.ckpt", network=MLP(depth=3, width=5)).masks is not None
    assert_untouched(tmp_path)


@pytest.mark.parametrize("attack", ["a shell command", "an import", "a function that returns a module", "a callable"])
def test_no_command_imports_or_calls_what_a_checkpoint_names(checkpoint, tmp_path, attack):
    torch.save(checkpoint | {"network": NETWORKS[attack]}, "hostile.ckpt")
    for words in (["summary"], ["export", "--to", "sparse", "--output", "x.pt"]):
        ended = command(*words, "--ckpt_path", "hostile.ckpt")
        assert ended.code == 2
        assert re.search(REMEDY, ended.errors.removeprefix("spl: error: "))
        assert_untouched(tmp_path)


def test_the_message_shows_a_name_so_that_it_can_be_told_from_another(checkpoint):
    torch.save(checkpoint | {"network": named("\x1b[2Jspl.networks.\uff2dLP" + "x" * 1000)}, "hostile.ckpt")
    with pytest.raises(InputError, match=r"asks for '\\x1b\[2Jspl\.networks\.\\uff2dLPx{1,99}\\u2026', and"):
        SparseClassifier.load_from_checkpoint("hostile.ckpt")


BUILT = "pytorch_lightning.cli.instantiate_module"
HYPERPARAMETERS = {
    "a function by Lightning's parser": {"_instantiator": BUILT, "optimizer": {"class_path": "canary.called"}},
    "a module by Lightning's parser": {"_instantiator": BUILT, "lr_scheduler": "canary.X"},
    "by lightning's other name": {"_instantiator": "lightning.pytorch.cli.instantiate_module", "optimizer": "canary.X"},
    "an instantiator": {"_instantiator": "canary.called"},
    "a class": {"_instantiator": BUILT, "_class_path": "canary.Net"},
    "a class alone": {"_class_path": "canary.Net"},
    "an optimizer": {"optimizer": {"class_path": "canary.called"}},
    "a callable by reference": {"initializer": torch.Tensor},
    "a dictionary of another type": {"initializer": collections.OrderedDict(class_path="canary.called")},
}


@pytest.mark.parametrize("key", ["hyper_parameters", "hparams", "module_arguments"])
@pytest.mark.parametrize("saved", HYPERPARAMETERS.values(), ids=HYPERPARAMETERS)
def test_hyperparameters_that_are_not_plain_are_neither_imported_nor_called(checkpoint, tmp_path, key, saved):
    torch.save(checkpoint | {key: saved}, "hostile.ckpt")
    with pytest.raises(
        InputError,
        match=r"^hostile\.ckpt asks for .* in its hyperparameters, and nothing that a checkpoint names is imported or "
        r"called\. In Python, pass such arguments, .*: Trainer\(\)\.test\(model, ckpt_path=path, weights_only=True\)",
    ):
        SparseClassifier.load_from_checkpoint("hostile.ckpt")
    assert_untouched(tmp_path)


def test_the_type_of_hyperparameters_is_not_called(checkpoint):
    torch.save(checkpoint | {"hyper_parameters": {}, "hparams_type": torch.device}, "hostile.ckpt")
    with pytest.raises(InputError, match=r"asks for a value of the type type in its hyperparameters"):
        SparseClassifier.load_from_checkpoint("hostile.ckpt")


def test_a_file_that_is_replaced_while_it_is_read_is_not_unpickled(checkpoint, tmp_path, monkeypatch):
    class Hostile:
        def __reduce__(self):
            return __import__, ("canary",)

    torch.save(checkpoint | {"x": Hostile()}, "hostile.ckpt")
    monkeypatch.setattr(classifier, "read_checkpoint", lambda path: checkpoint)
    with pytest.raises(pickle.UnpicklingError):
        SparseClassifier.load_from_checkpoint("hostile.ckpt")
    assert_untouched(tmp_path)


class Named(SparseClassifier):
    """A class that saves its plain hyperparameters, as a user's class may."""

    def __init__(self, network, title, **kwargs):
        super().__init__(network, **kwargs)
        self.save_hyperparameters(ignore=["network"])


def test_plain_hyperparameters_come_back_and_others_are_those_that_are_passed(checkpoint):
    saved = {"title": "mine", "lr_interval": "epoch", "optimizer": named("canary.called")}
    torch.save(checkpoint | {"hyper_parameters": saved}, "named.ckpt")
    with pytest.raises(InputError, match=r"asks for 'canary\.called' in its hyperparameters"):
        Named.load_from_checkpoint("named.ckpt")
    again = Named.load_from_checkpoint("named.ckpt", optimizer=torch.optim.Adam)
    assert again.hparams["title"] == "mine"
    assert again.lr_interval == "epoch"
    assert again.optimizer is torch.optim.Adam
