"""Reference networks: plain PyTorch modules, used by the demo, the examples and the benchmarks."""

from packlight.networks.efficientnet import efficientnet_lite
from packlight.networks.lenet import lenet5, lenet300
from packlight.networks.mobilenet import mobilenet_v2, mobilenet_v2_small
from packlight.networks.resnet import resnet8, resnet20, resnet50
from packlight.networks.speech import conformer, ds_cnn
from packlight.networks.squeezenet import squeezenet
from packlight.networks.text import lstm_classifier, sentence_classifier, sentence_encoder, transformer_classifier
from packlight.networks.unet import unet

__all__ = [
    "conformer",
    "ds_cnn",
    "efficientnet_lite",
    "lenet5",
    "lenet300",
    "lstm_classifier",
    "mobilenet_v2",
    "mobilenet_v2_small",
    "resnet8",
    "resnet20",
    "resnet50",
    "sentence_classifier",
    "sentence_encoder",
    "squeezenet",
    "transformer_classifier",
    "unet",
]
