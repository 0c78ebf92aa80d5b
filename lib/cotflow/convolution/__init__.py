"""Residual networks of convolutions on images ([M] §5.2): networks, training, data, roughness."""

from cotflow.convolution.datasets import DataError, Images, load_images
from cotflow.convolution.network import ConvNet, ConvWeights, Layers, initial_weights, join
from cotflow.convolution.roughness import kernel_gaps, roughness
from cotflow.convolution.training import Record, Trainer, accuracy, train

__all__ = [
    "ConvNet",
    "ConvWeights",
    "DataError",
    "Images",
    "Layers",
    "Record",
    "Trainer",
    "accuracy",
    "initial_weights",
    "join",
    "kernel_gaps",
    "load_images",
    "roughness",
    "train",
]
