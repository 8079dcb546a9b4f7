"""`spl export` and `spl summary`, as a user calls them."""

import re

import pytest
import torch
from fits import PLAIN
from onnx_files import infer
from pytorch_lightning import Trainer

from spl import PruneAtInit, SparseClassifier
from spl.__main__ import main
from spl.criteria import Random
from spl.data import MNISTSample
from spl.export import load_sparse, summarize
from spl.files import serialized
from spl.networks import MLP, VGG16
from spl.pruning import prune
from spl.pruning.patterns import Channels, Unstructured

CONFIG = {"class_path": "spl.networks.MLP", "init_args": {"depth": 3, "width": 30}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return the checkpoint of a short fit, as the command writes it."""
    model = SparseClassifier(MLP(depth=3, width=30))
    model.network_config = CONFIG
    trainer = Trainer(**PLAIN, callbacks=[PruneAtInit(sparsity=0.95, batches=4, isometry=None)])
    trainer.fit(model, datamodule=MNISTSample())
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    trainer.save_checkpoint(path)
    return path


def untrained(path, network, config, sparsity=0.9, pattern=Unstructured()):
    """Write the checkpoint of an untrained classifier, pruned only if a sparsity is given."""
    model = SparseClassifier(network)
    model.network_config = config
    if sparsity is not None:
        model.set_masks(prune(model.network, Random(), sparsity=sparsity, pattern=pattern))
    trainer = Trainer(**PLAIN)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


def refused(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("to", ["dense", "compact", "csr"])
def test_an_exported_program_computes_what_the_checkpoint_does(checkpoint, tmp_path, capsys, to):
    output = tmp_path / "network.pt2"
    main(["export", "--ckpt_path", str(checkpoint), "--to", to, "--output", str(output)])
    assert f"{to}: {output}, {output.stat().st_size:,} bytes" in capsys.readouterr().out
    program = torch.export.load(output).module()
    network = SparseClassifier.load_from_checkpoint(checkpoint).network.eval()
    inputs = torch.randn(7, 1, 28, 28)
    with torch.no_grad():
        assert torch.allclose(program(inputs.flatten(1)), network(inputs), atol=1e-5)


def test_an_onnx_file_computes_what_the_checkpoint_does(checkpoint, tmp_path, capsys):
    output = tmp_path / "network.onnx"
    main(["export", "--ckpt_path", str(checkpoint), "--to", "onnx", "--output", str(output)])
    assert f"onnx: {output}, {output.stat().st_size:,} bytes" in capsys.readouterr().out
    network = SparseClassifier.load_from_checkpoint(checkpoint).network.eval()
    inputs = torch.randn(7, 784)
    with torch.no_grad():
        assert torch.allclose(infer(output, inputs), network(inputs), atol=1e-5)


def test_the_sparse_file_is_the_state_of_the_network(checkpoint, tmp_path):
    output = tmp_path / "weights.pt"
    main(["export", "--ckpt_path", str(checkpoint), "--to", "sparse", "--output", str(output)])
    network = SparseClassifier.load_from_checkpoint(checkpoint).network
    loaded = load_sparse(output)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())
    assert output.stat().st_size < 0.25 * 4 * sum(p.numel() for p in network.parameters())


def test_each_kind_says_what_it_gains_and_where_it_gains_nothing(checkpoint, tmp_path, capsys):
    model = SparseClassifier.load_from_checkpoint(checkpoint)
    pruned = model.masks.size - model.masks.kept
    for to, begins in {"dense": f"dense gains nothing: it stores {pruned:,} pruned", "sparse": "sparse takes "}.items():
        main(["export", "--ckpt_path", str(checkpoint), "--to", to, "--output", str(tmp_path / to)])
        assert f"bytes\n{begins}" in capsys.readouterr().out
    main(["export", "--ckpt_path", str(checkpoint), "--to", "csr", "--output", str(tmp_path / "csr")])
    assert re.search(r"^csr (gains nothing here|is faster here in)", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(("pattern", "advised"), [(Unstructured(), True), (Channels(), False)])
def test_a_network_that_hardly_shrinks_is_advised_to_prune_whole_units(tmp_path, capsys, pattern, advised):
    path = untrained(tmp_path / "last.ckpt", MLP(depth=3, width=30), CONFIG, pattern=pattern)
    main(["summary", "--ckpt_path", str(path)])
    summary = " ".join(capsys.readouterr().out.split())
    main(["export", "--ckpt_path", str(path), "--to", "compact", "--output", str(tmp_path / "n.pt2")])
    said = capsys.readouterr().out
    assert max(map(len, said[said.index("\ncompact removes ") :].splitlines())) < 80
    for text in (summary, " ".join(said.split())):
        assert re.search(r"compact removes \d+\.\d % of 24,790 parameters", text)
        assert ("prune whole units: spl fit --pruning.pattern Channels." in text) == advised
        assert ("the network is smaller and faster on any device" in text) != advised


@pytest.mark.skipif(torch.cuda.is_available(), reason="is refused where there is no CUDA device")
def test_two_of_four_is_refused_without_its_kernels(checkpoint, tmp_path, capsys):
    said = refused(capsys, "export", "--ckpt_path", checkpoint, "--to", "2:4", "--output", tmp_path / "n.pt2")
    assert "spl: error: No layer can run as 2:4" in said


def test_the_summary_of_a_checkpoint(checkpoint, capsys):
    main(["summary", "--ckpt_path", str(checkpoint)])
    said = capsys.readouterr().out
    model = SparseClassifier.load_from_checkpoint(checkpoint)
    total = re.search(r"^total +(\S+) +(\S+) +(\S+) +(\S+) +(\S+)$", said, re.MULTILINE).groups()
    weights, kept, dense, sparse, compact = (int(number.replace(",", "")) for number in total)
    assert weights == dense == 784 * 30 + 30 * 30 + 30 * 10
    assert kept == sparse == model.masks.kept
    assert kept <= compact <= dense
    assert f"checkpoint: {checkpoint}, {checkpoint.stat().st_size:,} bytes" in said


def test_a_summary_counts_by_hand():
    network = VGG16(width_multiplier=1 / 64)
    masks = prune(network, Random(), sparsity=0.5, pattern=Channels(), exclude=["fc*.*"])
    summary = summarize(network, masks, torch.randn(2, 3, 32, 32))
    first = summary.layers[0]
    assert (first.weights, first.dense) == (27, 27 * 32 * 32)
    assert first.kept == int(masks["conv1.weight"].sum())
    assert first.sparse == first.kept * 32 * 32
    last = summary.layers[-1]
    assert (last.weights, last.kept, last.dense) == (8 * 10, 8 * 10, 8 * 10)
    assert summary.parameters == sum(p.numel() for p in network.parameters())
    assert summary.total.compact < summary.total.dense
    assert set(summary.file_bytes) == {"dense", "sparse", "compact"}
    assert summary.file_bytes["dense"] == len(serialized(network.state_dict()))


def test_tied_weights_count_once_on_disk():
    network = torch.nn.Sequential(torch.nn.Linear(50, 50), torch.nn.Linear(50, 50))
    network[1].weight = network[0].weight
    masks = prune(network, Random(), sparsity=0.9)
    sizes = summarize(network, masks, torch.randn(1, 50)).file_bytes
    assert sizes["dense"] < 1.5 * 4 * 50 * 50
    assert sizes["sparse"] < 0.4 * sizes["dense"]


def test_a_network_of_unknown_input_size_says_what_to_give(tmp_path, capsys):
    config = {"class_path": "spl.networks.VGG16", "init_args": {"width_multiplier": 0.1}}
    path = untrained(tmp_path / "last.ckpt", VGG16(width_multiplier=0.1), config)
    assert "give --input_shape, such as [3, 32, 32]" in refused(capsys, "summary", "--ckpt_path", path)
    main(["summary", "--ckpt_path", str(path), "--input_shape", "[3, 32, 32]"])
    assert "conv13" in capsys.readouterr().out


def test_a_checkpoint_without_masks_is_refused(tmp_path, capsys):
    config = {"class_path": "spl.networks.MLP", "init_args": {"depth": 2}}
    untrained(tmp_path / "dense.ckpt", MLP(depth=2), config, sparsity=None)
    said = refused(capsys, "summary", "--ckpt_path", tmp_path / "dense.ckpt")
    assert "dense.ckpt has no masks: its network was never pruned" in said


@pytest.mark.parametrize(("flag", "value"), [("--batch_size", "0"), ("--input_shape", "[28, 0]")])
def test_sizes_below_one_are_refused(checkpoint, tmp_path, capsys, flag, value):
    words = ["export", "--ckpt_path", checkpoint, "--to", "csr", "--output", tmp_path / "n.pt2", flag, value]
    assert "--batch_size and --input_shape must be at least 1, got " in refused(capsys, *words)


def test_inputs_of_another_size_are_refused(checkpoint, capsys):
    assert "MLP takes 784 numbers" in refused(capsys, "summary", "--ckpt_path", checkpoint, "--input_shape", "[28]")


def test_a_network_that_fails_on_the_size_is_told_apart(tmp_path, capsys):
    config = {"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 3, "out_channels": 10, "kernel_size": 3}}
    path = untrained(tmp_path / "last.ckpt", torch.nn.Conv2d(3, 10, 3), config)
    words = ["--ckpt_path", path, "--trust", "torch.nn.Conv2d", "--input_shape", "[1, 8, 8]"]
    said = refused(capsys, "summary", *words)
    assert re.search(r"Conv2d cannot read inputs of the shape \[1, 8, 8\] \(.*\): give the --input_shape", said)


def test_a_file_that_is_there_is_left_alone(checkpoint, capsys):
    before = checkpoint.read_bytes()
    said = refused(capsys, "export", "--ckpt_path", checkpoint, "--to", "sparse", "--output", checkpoint)
    assert f"{checkpoint} exists already, and nothing is overwritten" in said
    assert checkpoint.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(checkpoint, tmp_path, capsys):
    output = tmp_path / "nowhere" / "network.pt2"
    said = refused(capsys, "export", "--ckpt_path", checkpoint, "--to", "dense", "--output", output)
    assert f"There is no folder {output.parent}" in said


def test_a_missing_checkpoint_is_named(capsys, tmp_path):
    assert "There is no checkpoint gone.ckpt" in refused(capsys, "summary", "--ckpt_path", "gone.ckpt")


@pytest.mark.parametrize(
    ("command", "explained"),
    [
        ("export", "--output OUTPUT the file to write; an existing"),
        ("summary", "--ckpt_path CKPT_PATH a checkpoint that"),
    ],
)
def test_each_has_its_help(capsys, command, explained):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert explained in " ".join(capsys.readouterr().out.split())


def test_help_of_the_whole_command_names_them(capsys):
    main(["--help"])
    said = capsys.readouterr().out
    assert "\n  export " in said
    assert "\n  summary " in said
