"""Data modules: MNIST, FashionMNIST, CIFAR10, and MNISTSample, which needs no download."""

from spl.data.cifar10 import CIFAR10
from spl.data.images import ImageDataModule
from spl.data.mnist import MNIST, FashionMNIST
from spl.data.mnist_sample import MNISTSample

__all__ = ["CIFAR10", "MNIST", "FashionMNIST", "ImageDataModule", "MNISTSample"]
