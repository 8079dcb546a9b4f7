"""ONNX files are compared with their networks before they are written."""

import pytest
import torch
from onnx import helper
from onnx_files import infer, infer_all
from torch import nn

from spl.errors import InputError
from spl.export import onnx_check, save_onnx
from spl.export.comparison import random_inputs
from spl.export.onnx_check import check_onnx
from spl.networks import MLP


class Doubled(nn.Module):
    """A module that doubles its inputs, but not when it is exported."""

    def forward(self, x):
        return x if torch.compiler.is_exporting() else 2 * x


def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    path = tmp_path / "n.onnx"
    path.write_bytes(b"an earlier file")
    with pytest.raises(InputError) as refused:
        save_onnx(path, Doubled(), torch.randn(1, 3))
    assert "The ONNX file of Doubled would compute something else" in str(refused.value)
    assert "a batch of 1, outputs differ by 0.5 relative to the largest one" in str(refused.value)
    assert "Export the network as a PyTorch program: --to dense or compact" in str(refused.value)
    assert path.read_bytes() == b"an earlier file"
    assert list(tmp_path.iterdir()) == [path]


def scaled(*factors, dtype=torch.float32):
    """Return an ONNX model with one output of three numbers for each factor, which multiplies the inputs by it."""
    kind = helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype)
    constants = [helper.make_tensor(f"factor{i}", kind, [1], [factor]) for i, factor in enumerate(factors)]
    nodes = [helper.make_node("Mul", ["inputs", f"factor{i}"], [f"output{i}"]) for i in range(len(factors))]
    values = [helper.make_tensor_value_info(f"output{i}", kind, ["batch", 3]) for i in range(len(factors))]
    inputs = [helper.make_tensor_value_info("inputs", kind, ["batch", 3])]
    graph = helper.make_graph(nodes, "scaled", inputs, values, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


class Scaled(nn.Module):
    """The network of `scaled`, but for batches of one with a factor of its own."""

    def __init__(self, *factors, of_one=None):
        super().__init__()
        self.factors = factors
        self.of_one = of_one or factors

    def forward(self, x):
        return tuple(x * factor for factor in (self.of_one if len(x) == 1 else self.factors))


HALF = torch.float16


@pytest.mark.parametrize(
    ("model", "network", "example", "said"),
    [
        (scaled(1), Scaled(2), torch.randn(1, 3), "a batch of 1, outputs differ by 0.5 relative to the largest one"),
        (scaled(1), Scaled(2), torch.zeros(1, 3), "outputs differ by 0.5 relative to the largest one"),
        (scaled(1e-5), Scaled(2e-5), torch.randn(1, 3), "outputs differ by 0.5 relative to the largest one"),
        (
            scaled(1, dtype=HALF),
            Scaled(2),
            torch.randn(1, 3, dtype=HALF),
            "0.5 relative to the largest one, and rounding explains 0.0098",
        ),
        (scaled(1000, 1), Scaled(1000, 2), torch.randn(1, 3), "outputs differ by 0.5 relative to the largest one"),
        (scaled(1), Scaled(1, of_one=[2]), torch.randn(4, 3), "a batch of 1, outputs differ by 0.5"),
        (scaled(1), Scaled(2, of_one=[1]), torch.randn(4, 3), "a batch of 3, outputs differ by 0.5"),
        (
            scaled(1, dtype=torch.int64),
            Scaled(2),
            torch.tensor([[3, 8, 0]]),
            "outputs differ by 0.5 relative to the largest one",
        ),
    ],
    ids=["floats", "zeros", "small", "half", "second output", "batch of one", "larger batch", "tokens"],
)
def test_outputs_are_compared_relative_to_their_size_for_batches_of_one_and_of_several(model, network, example, said):
    with pytest.raises(InputError, match="The ONNX file of Scaled would compute something else") as refused:
        check_onnx(model, network, example)
    assert said in str(refused.value)


def test_what_onnxruntime_cannot_run_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"onnxruntime cannot run the ONNX file of MLP: .*NOT_IMPLEMENTED"):
        save_onnx(tmp_path / "n.onnx", MLP().bfloat16(), torch.randn(1, 784).bfloat16())
    assert not list(tmp_path.iterdir())


def test_half_precision_is_written(tmp_path):
    network = MLP(depth=5, width=50).half().eval()
    save_onnx(tmp_path / "n.onnx", network, torch.randn(1, 784).half())
    inputs = torch.randn(5, 784).half()
    with torch.no_grad():
        assert torch.allclose(infer(tmp_path / "n.onnx", inputs), network(inputs), atol=1e-2)


def test_the_same_nan_and_infinities_are_no_difference(tmp_path):
    class Logarithm(nn.Module):
        def forward(self, x):
            return x.log(), 1 / (x - x)

    save_onnx(tmp_path / "n.onnx", Logarithm(), torch.randn(1, 8))
    assert infer_all(tmp_path / "n.onnx", torch.ones(2, 8))[0].tolist() == [[0.0] * 8] * 2


def test_a_network_in_training_is_written_as_it_evaluates_and_left_as_it_was(tmp_path, snapshot):
    network = nn.Sequential(nn.Linear(4, 30), nn.BatchNorm1d(30), nn.Dropout(), nn.Linear(30, 2)).train()
    example = torch.randn(1, 4)
    before = snapshot(network)
    save_onnx(tmp_path / "n.onnx", network, example)
    assert snapshot(network) == before
    inputs = torch.randn(5, 4)
    with torch.no_grad():
        assert torch.allclose(infer(tmp_path / "n.onnx", inputs), network.eval()(inputs), atol=1e-5)


def test_without_onnxruntime_a_warning_says_that_nothing_was_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_check, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="onnxruntime is not installed, so the ONNX file of MLP was not compared"):
        save_onnx(tmp_path / "n.onnx", MLP(depth=2), torch.randn(1, 784))
    assert (tmp_path / "n.onnx").is_file()


@pytest.mark.parametrize("dtype", [torch.float32, HALF, torch.int64])
def test_a_model_that_computes_the_same_is_accepted(dtype):
    check_onnx(scaled(3, 5, dtype=dtype), Scaled(3, 5), torch.tensor([[3, 8, 0]]).to(dtype))


def test_random_numbers_lie_between_zero_and_the_example():
    example = torch.tensor([[1.0, -200.0, 0.0], [3.0, -400.0, 0.0]])
    inputs = random_inputs(example, 5)
    assert inputs.shape == (5, 3)
    assert len(inputs.unique(dim=0)) == 5
    assert bool((inputs * example[0].sign() >= 0).all())
    assert bool((inputs.abs() <= example.abs().amax(0)).all())
    assert torch.equal(inputs, random_inputs(example, 5))


def test_for_an_example_of_zeros_random_numbers_are_normal():
    assert 0.8 < random_inputs(torch.zeros(1, 1000, dtype=torch.half), 1).std() < 1.2


def test_random_tokens_are_the_examples_own_at_their_place():
    example = torch.tensor([[1, 50], [2, 60], [3, 70]])
    inputs = random_inputs(example, 20)
    assert set(inputs[:, 0].tolist()) == {1, 2, 3}
    assert set(inputs[:, 1].tolist()) == {50, 60, 70}
    assert inputs.dtype == torch.long


def test_drawing_inputs_leaves_the_random_stream_alone():
    state = torch.get_rng_state()
    random_inputs(torch.ones(1, 2), 3)
    assert torch.equal(torch.get_rng_state(), state)
