"""The paper's networks, built from PyTorch's layers: MLP, LeNet300, VGG16, ResNet, WideResNet."""

from spl.networks.fully_connected import MLP, FullyConnected, LeNet300
from spl.networks.residual import ResNet, WideResNet
from spl.networks.vgg import VGG16

__all__ = ["MLP", "VGG16", "FullyConnected", "LeNet300", "ResNet", "WideResNet"]
