import pytest
import torch
from torch import nn

from spl.criteria import ConnectionSensitivity
from spl.errors import InputError
from spl.functional.undisturbed import undisturbed
from spl.jacobian import singular_values
from spl.networks import ResNet
from spl.pruning import prune


def network() -> nn.Sequential:
    """Return layers in several modes, with gradients and with BatchNorm statistics that are not fresh."""
    layers = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4)
    )
    layers(torch.randn(6, 1, 4, 4)).square().sum().backward()
    layers[1].eval()
    layers[0].weight.requires_grad_(False)
    layers.register_buffer("temporary", torch.ones(2), persistent=False)
    return layers


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
def test_a_network_is_left_as_it_was_found(snapshot, batch_norm):
    layers = network()
    before = snapshot(layers)
    with undisturbed(layers, batch_norm):
        layers(torch.randn(6, 1, 4, 4))
        layers[1].running_mean.fill_(7.0)
        layers.temporary.zero_()
        torch.manual_seed(123)
    assert snapshot(layers) == before


def test_a_network_is_left_as_it_was_found_after_an_exception(snapshot):
    layers = network()
    before = snapshot(layers)

    def interrupted() -> None:
        with undisturbed(layers, "batch"):
            layers(torch.randn(6, 1, 4, 4))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert snapshot(layers) == before


def test_statistics_that_are_nan_are_restored_too(snapshot):
    layers = network()
    layers[1].running_var[0] = float("nan")
    before = snapshot(layers)
    with undisturbed(layers):
        layers[1].reset_running_stats()
    assert snapshot(layers) == before


def test_eval_puts_every_layer_into_evaluation_mode():
    layers = network()
    with undisturbed(layers):
        assert not any(module.training for module in layers.modules())
        x = torch.randn(6, 1, 4, 4)
        assert torch.equal(layers(x), layers(x))


def test_batch_puts_batch_norm_alone_into_training_mode():
    layers = network()
    with undisturbed(layers, "batch"):
        training = [name for name, module in layers.named_modules() if module.training]
        assert training == ["1", "5"]
        output = layers(torch.randn(6, 1, 4, 4))
    torch.testing.assert_close(output.mean(0), torch.zeros(4), atol=1e-5, rtol=0)


def test_gradients_are_on_inside_and_as_before_outside():
    layers = network()
    with torch.no_grad():
        with undisturbed(layers):
            assert layers(torch.randn(6, 1, 4, 4)).requires_grad
        assert not torch.is_grad_enabled()


def test_random_numbers_go_on_as_if_nothing_had_been_drawn():
    layers = network()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with undisturbed(layers):
        torch.rand(100)
    assert torch.equal(torch.rand(4), expected)


def test_a_compiled_network_runs_eagerly_inside_so_that_gradients_can_be_taken_twice():
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    layers = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    layers.compile(backend=backend)
    x = torch.randn(5, 3, requires_grad=True)
    with undisturbed(layers):
        y = layers(x)
        first = torch.autograd.grad(y[:, 0].sum(), x, retain_graph=True)[0]
        second = torch.autograd.grad(y[:, 0].sum(), x)[0]
    assert compilations == []
    assert torch.equal(first, second)
    assert torch.equal(layers(x), y)
    assert len(compilations) == 1


def test_a_batch_of_one_is_refused_where_batch_norm_would_normalize_it_by_itself():
    network = ResNet(blocks_per_stage=1, width_multiplier=0.25)
    batches = [(torch.randn(n, 3, 8, 8), torch.zeros(n, dtype=torch.long)) for n in (2, 1)]
    advice = r"normalize a batch of one example .* two examples or more, or batch_norm: eval"
    with pytest.raises(InputError, match=advice):
        prune(network, ConnectionSensitivity(), 0.5, batches, batch_norm="batch")
    with pytest.raises(InputError, match=advice):
        singular_values(network, batches[0][0], chunk=1, batch_norm="batch")
    assert prune(network, ConnectionSensitivity(), 0.5, batches).sparsity == pytest.approx(0.5, abs=1e-3)
    assert singular_values(network, torch.randn(5, 3, 8, 8), chunk=4, batch_norm="batch").shape == (5, 10)
    assert not any(module._forward_pre_hooks for module in network.modules())
