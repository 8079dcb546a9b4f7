"""User-defined networks trained by the command: their checkpoints load if the user names the classes."""

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import SMALL, command
from jsonargparse import ArgumentParser
from torch import nn

from spl import InputError, SparseClassifier
from spl.export import load_sparse
from spl.networks.loading.network_entry import build_network

MYNET = '''
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Callable, Literal, Optional

from torch import nn

class Act(Enum):
    TANH = nn.Tanh
    RELU = nn.ReLU

@dataclass
class Head:
    classes: int
    scale: tuple[float, float] = (1.0, 2.0)

class Encoder(nn.Linear):
    """A nested network."""

class Net(nn.Module):
    def __init__(self, encoder: nn.Module, sizes: tuple[int, ...], act: Act, *, note: Optional[Path] = None,
                 pairs: list[tuple[int, Act]] | None = None, head: Head = Head(10), mode: Literal["a", "b"] = "a",
                 norm: Callable[[], nn.Module] = nn.Identity, kind: type[nn.Module] = nn.Identity,
                 unknown: Any = None, untyped=(1, 2), **further):
        super().__init__()
        self.received = {k: v for k, v in locals().items() if k not in ("self", "__class__", "encoder")}
        units = [encoder.out_features, *sizes, head.classes]
        layers = [layer for pair in zip(units, units[1:]) for layer in (act.value(), nn.Linear(*pair))]
        self.layers = nn.Sequential(nn.Flatten(), encoder, norm(), kind(), *layers)

    def forward(self, x):
        return self.layers(x)

def net() -> nn.Module:
    """Of a function, which cannot be trusted."""

made = nn.Linear(3, 3)
'''  # fmt: skip
REFERENCE = Path(__file__).parent.parent / "lightning_logs" / "reference"
CLASSES = ["mynet.Net", "mynet.Encoder", "torch.nn.Identity"]
NETWORK = """
class_path: mynet.Net
init_args:
  encoder: {class_path: mynet.Encoder, init_args: {in_features: 784, out_features: 20}}
  sizes: [20, 20]
  act: TANH
  note: a/b
  pairs: [[1, RELU], [2, TANH]]
dict_kwargs: {further: 3}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a folder with a user-defined class, and a checkpoint of it that `spl fit` wrote."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mynet.py").write_text(MYNET)
    (folder / "network.yaml").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        quick = [*SMALL[:2], *SMALL[6:], "--model.network", "network.yaml", "--trainer.max_epochs", 1]
        ended = command("fit", *quick, "--trainer.limit_train_batches", 3, "--test_after_fit", "false")
        assert ended.code == 0, ended.errors
        Path("lightning_logs/quickstart/version_0/checkpoints/last.ckpt").rename("own.ckpt")
        yield folder
    sys.modules.pop("mynet", None)


@pytest.fixture(autouse=True)
def _not_imported():
    """Forget the module before each test, as in a new process."""
    sys.modules.pop("mynet", None)


def loaded(trust=CLASSES):
    return SparseClassifier.load_from_checkpoint("own.ckpt", trust=trust)


def test_a_network_of_ones_own_is_refused_unless_its_classes_are_named(run):
    for trust in ((), [], "mynet", "mynet.Net.Encoder, mynet.Net, torch.nn.Identity", CLASSES[1:], ["mynet.net"]):
        with pytest.raises(
            InputError, match=r"^own\.ckpt asks for 'mynet\.(Encoder|Net)'.* On the command line, .*--trust"
        ):
            loaded(trust)
        assert "mynet" not in sys.modules
    ended = command("summary", "--ckpt_path", "own.ckpt", "--input_shape", "[1, 28, 28]", "--trust", "mynet.Net")
    assert ended.code == 2
    assert "own.ckpt asks for 'mynet.Encoder', 'torch.nn.Identity', and" in ended.errors


def test_a_network_of_ones_own_gets_the_arguments_that_it_was_trained_with(run):
    network = loaded().network
    mynet = sys.modules["mynet"]
    assert type(network) is mynet.Net
    assert isinstance(network.received.pop("norm")(), nn.Identity)
    assert network.received == {
        "sizes": (20, 20),
        "act": mynet.Act.TANH,
        "note": Path("a/b"),
        "pairs": [(1, mynet.Act.RELU), (2, mynet.Act.TANH)],
        "head": mynet.Head(10),
        "mode": "a",
        "kind": nn.Identity,
        "unknown": None,
        "untyped": (1, 2),
        "further": {"further": 3},
    }


def test_the_commands_take_a_network_of_ones_own(run):
    trust = ["--ckpt_path", "own.ckpt", "--trust", f"[{', '.join(CLASSES)}]"]
    ended = command("summary", *trust, "--input_shape", "[1, 28, 28]")
    assert ended.code == 0, ended.errors
    assert re.search(r"^layers\.1\.weight +15,680 ", ended.output, re.MULTILINE)
    assert command("export", *trust, "--to", "sparse", "--output", "sparse.pt").code == 0
    state = torch.load("own.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, state[f"network.{name}"]) for name, tensor in load_sparse("sparse.pt").items())
    ended = command("export", *trust, "--to", "dense", "--output", "network.pt2", "--input_shape", "[1, 28, 28]")
    assert ended.code == 0, ended.errors
    inputs = torch.randn(2, 1, 28, 28)
    outputs = torch.export.load("network.pt2").module()(inputs)
    assert torch.allclose(outputs, loaded().network.eval()(inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("mynet.net", r"mynet\.net is a function, and only a class can be trusted"),
        ("mynet.made", r"mynet\.made is a Linear, and only a class can be trusted"),
        ("mynet", r"mynet is a module, and only a class can be trusted"),
        ("mynet.Other", r"mynet\.Other is to be trusted but cannot be imported \(.*: give the path of a class"),
        ("nowhere.Net", r"nowhere\.Net is to be trusted but cannot be imported \(No module named"),
        ("no class", r"no class is to be trusted but cannot be imported \(.*: give the path of a class"),
        ("mynet.Head", r"own\.ckpt asks for 'mynet\.Head', which is not a network, and"),
    ],
)
def test_only_classes_of_networks_can_be_trusted(run, name, match):
    checkpoint = torch.load("own.ckpt", weights_only=True)
    checkpoint["network"] = {"class_path": name, "init_args": {"classes": 3}}
    with pytest.raises(InputError, match=match):
        build_network(checkpoint, "own.ckpt", trust=name)


@pytest.mark.parametrize(
    ("argument", "value", "match"),
    [
        ("kind", "this.X", r"own\.ckpt asks for 'this\.X', and"),
        ("norm", "this.X", r"own\.ckpt asks for 'this\.X', and"),
        ("unknown", {"class_path": "this.X"}, r"own\.ckpt asks for 'this\.X', and"),
        ("further", [{"a": {"class_path": "this.X"}}], r"own\.ckpt asks for 'this\.X', and"),
        ("note", torch.ones(1), r"own\.ckpt asks for a value of the type Tensor, and"),
        ("encoder", "network.yaml", r"The network of own\.ckpt cannot be built \('str' object has no attribute"),
        ("head", {"classes": 3, "other": 4}, r"The network of own\.ckpt cannot be built \(.*'other'"),
        ("act", "SELU", r"The network of own\.ckpt cannot be built \('str' object has no attribute 'value'"),
    ],
)
def test_no_argument_of_a_trusted_network_leads_elsewhere(run, argument, value, match):
    checkpoint = torch.load("own.ckpt", weights_only=True)
    checkpoint["network"]["init_args"][argument] = value
    with pytest.raises(InputError, match=match):
        build_network(checkpoint, "own.ckpt", CLASSES)
    assert "this" not in sys.modules


@pytest.mark.parametrize("run_folder", sorted(REFERENCE.iterdir()), ids=lambda folder: folder.name)
def test_networks_of_the_reference_runs_need_no_trust(tmp_path, run_folder):
    (tmp_path / "as_large").write_bytes(bytes(2**24))
    network = yaml.safe_load((run_folder / "config.yaml").read_text())["model"]["network"]
    built = build_network({"network": network}, tmp_path / "as_large")
    assert network["class_path"] == f"spl.networks.{type(built).__name__}"


RESNET = "--network.block torchvision.models.resnet.BasicBlock --network.layers [1,1,1,1] --network.num_classes 10"
VIT = "--network.image_size 32 --network.patch_size 8 --network.num_layers 1 --network.num_heads 2 "
VIT += "--network.hidden_dim 8 --network.mlp_dim 8"
MAXVIT = "--network.input_size [64,64] --network.stem_channels 8 --network.partition_size 2 --network.head_dim 4 "
MAXVIT += "--network.block_channels [8] --network.block_layers [1] --network.stochastic_depth_prob 0.1"


@pytest.mark.filterwarnings("ignore:[\\s]*Unable to serialize instance")  # about a partial, a default value
@pytest.mark.parametrize(
    ("name", "words", "parts"),
    [
        ("torch.nn.Conv2d", "--network.in_channels 3 --network.out_channels 10 --network.kernel_size [3,2]", []),
        ("torchvision.models.ResNet", RESNET, ["torchvision.models.resnet.BasicBlock"]),
        ("torchvision.models.VisionTransformer", VIT, []),
        ("torchvision.models.MaxVit", MAXVIT, ["torch.nn.GELU"]),
        ("torchvision.models.DenseNet", "--network.block_config [2,2,2,2]", []),
        ("torchvision.ops.MLP", "--network.in_channels 784 --network.hidden_channels [20,10]", ["torch.nn.ReLU"]),
    ],
)
def test_networks_of_others_are_built_as_the_command_builds_them(tmp_path, name, words, parts):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    config = parser.parse_args(["--network", name, *words.split()])
    checkpoint = yaml.safe_load(parser.dump(config))
    assert str(build_network(checkpoint, tmp_path, [name, *parts])) == str(parser.instantiate(config).network)
