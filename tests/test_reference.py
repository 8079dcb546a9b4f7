"""The reference's numbers on real data: Table 1 and mean Jacobian singular values (MNIST), Table 2 (CIFAR-10)."""

from itertools import islice

import pytest
import torch

from spl import prune
from spl.criteria import ConnectionSensitivity, Random
from spl.data import CIFAR10, MNIST
from spl.initializers import Gaussian, Orthogonal
from spl.isometry import ApproximateIsometry, GradientDescentIsometry, orthogonality_score
from spl.jacobian import Spectrum, singular_values
from spl.networks import MLP, VGG16, ResNet

SEEDS = range(4)

# γ: mean JSV before pruning, layer sparsities of connection sensitivity at 90 %
TABLE_1 = {
    1e-4: (2.46e-7, [0.97, 0.80, 0.80, 0.80, 0.80, 0.81, 0.48]),
    1e-3: (5.74e-4, [0.97, 0.80, 0.80, 0.80, 0.80, 0.81, 0.48]),
    1e-2: (4.49e-1, [0.96, 0.80, 0.80, 0.80, 0.81, 0.81, 0.49]),
    1e-1: (23.0, [0.96, 0.81, 0.82, 0.82, 0.82, 0.80, 0.45]),
    1e0: (1.03e3, [0.85, 0.88, 0.99, 1.0, 1.0, 1.0, 0.91]),
}
MEAN_JSV = {
    "linear": {"dense": 1.0, "cs": 0.042, "cs_ai": 0.978, "random": 2.7e-4},
    "tanh": {"dense": 0.351, "cs": 0.027, "cs_ai": 0.346, "random": 2.5e-4},
}
# orthogonality scores at 90 %, LDI and corrected, and the number of batches of 128 for scoring: five are enough for
# ResNet-32's masks; VGG16's corrected score is 6.19 with 8 batches and the default tolerance, 6.24 with 12
TABLE_2 = {
    "ResNet-32": (lambda: ResNet(blocks_per_stage=5), 4.43, 2.62, 5),
    "VGG16": (VGG16, 13.33, 6.43, 8),
}


@pytest.fixture(scope="module")
def batches(spl_data):
    """Return the 54,000 training digits in large batches; scores do not depend on the batch size."""
    data = MNIST(spl_data, batch_size=1000, download=False)
    data.setup()
    return [(data.normalize(images), labels) for images, labels in data.scoring_dataloader(0)]


def mean_jsv(network, batches):
    return Spectrum.of(singular_values(network, batches[0][0])).mean


def average(rows):
    return torch.tensor(rows).mean(0)


@pytest.mark.slow
@pytest.mark.parametrize("variance", TABLE_1)
def test_table_1_mean_jsv_and_layer_sparsities(variance, batches):
    means, sparsities = [], []
    for seed in SEEDS:
        torch.manual_seed(seed)
        network = MLP(activation="tanh")
        Gaussian(variance)(network)
        means.append(mean_jsv(network, batches))
        masks = prune(network, ConnectionSensitivity(), 0.9, batches, include_bias=True)
        sparsities.append([s for name, s in masks.layer_sparsity().items() if name.endswith("weight")])
    mean, layers = TABLE_1[variance]
    assert float(average(means)) == pytest.approx(mean, rel=0.1)
    assert average(sparsities).tolist() == pytest.approx(layers, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("activation", MEAN_JSV)
def test_mean_jsv_dense_pruned_corrected_and_random(activation, batches):
    found = {name: [] for name in MEAN_JSV[activation]}
    for seed in SEEDS:
        torch.manual_seed(seed)
        network = MLP(activation=activation)
        Orthogonal()(network)
        dense = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        parameters = dict(network.named_parameters())
        found["dense"].append(mean_jsv(network, batches))
        random = prune(network, Random(seed), 0.9, include_bias=True)
        random.apply_(parameters)
        found["random"].append(mean_jsv(network, batches))
        network.load_state_dict(dense)
        masks = prune(network, ConnectionSensitivity(), 0.9, batches, include_bias=True)
        masks.apply_(parameters)
        found["cs"].append(mean_jsv(network, batches))
        if seed < 2:  # which takes longer than all else, and the means of two differ by a twentieth at most
            ApproximateIsometry(gain=1.0, tolerance=0.0)(network, masks)
            found["cs_ai"].append(mean_jsv(network, batches))
    for name, expected in MEAN_JSV[activation].items():
        # the mean of a random mask varies by a seventh between seeds, the other means by at most a twentieth; corrected
        # tanh networks have 0.39 here, a tenth more than the authors', whose descent starts at the weights
        limit = {"random": 0.2, "cs_ai": 0.16}.get(name, 0.1)
        assert float(average(found[name])) == pytest.approx(expected, rel=limit), name


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE_2)
def test_table_2_orthogonality_scores(name, spl_data):
    build, pruned, corrected, count = TABLE_2[name]
    data = CIFAR10(spl_data, download=False)
    data.setup()
    torch.manual_seed(0)
    network = build()
    Orthogonal()(network)
    batches = ((data.normalize(images), labels) for images, labels in islice(data.scoring_dataloader(0), count))
    masks = prune(network, ConnectionSensitivity(), 0.9, batches, include_bias=True)
    parameters = dict(network.named_parameters())
    masks.apply_(parameters)
    layers = [parameters[name] for name in masks if masks[name].ndim > 1]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    assert orthogonality_score(layers) == pytest.approx(pruned, abs=0.3)
    ApproximateIsometry(gain=1.0, tolerance=0.003 if name == "ResNet-32" else 0.05)(network, masks)
    ours = orthogonality_score(layers)
    assert ours == pytest.approx(corrected, abs=0.35)
    if name == "ResNet-32":  # steps of the reference take much longer on VGG16
        network.load_state_dict(before)
        GradientDescentIsometry(iterations=2000)(network, masks)  # the score is 2.685, and 2.687 after 10,000
        theirs = orthogonality_score(layers)
        assert theirs == pytest.approx(corrected, abs=0.3)
        assert ours < theirs - 0.02
    else:
        assert ours < corrected
