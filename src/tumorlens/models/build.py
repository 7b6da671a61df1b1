"""Networks by name."""

import torch
from torch import nn

from tumorlens.errors import TumorlensError
from tumorlens.labels import MODEL_NAMES
from tumorlens.models.resnet import ResNet
from tumorlens.models.squeeze_excite import SqueezeExcite

_SE_REDUCTION = {"resnet18": None, "se_resnet18": 16}


def build_model(name: str, num_classes: int, seed: int = 0) -> ResNet:
    """Make a freshly initialised network.

    Both networks start alike: what they share gets the same numbers from the same `seed`, because
    the gates draw theirs last.

    Args:
        name: "resnet18" or "se_resnet18".
        num_classes: K, number of logits, at least 1.
        seed: decides the initial weights; the global random state is left as it was.

    Raises:
        TumorlensError: no such network.
    """
    with torch.random.fork_rng(devices=[]):
        network = _network(name, num_classes)
        torch.manual_seed(
            seed
        )  # only now: the constructors drew more numbers for the gated network
        _initialise(network)
    return network


def build_shell(name: str, num_classes: int) -> ResNet:
    """The same network on the device "meta": names and shapes, and no numbers yet.

    Raises:
        TumorlensError: no such network.
    """
    with torch.device("meta"):
        return _network(name, num_classes)


def _network(name: str, num_classes: int) -> ResNet:
    if name not in MODEL_NAMES:
        raise TumorlensError(
            f"--model {name}: no such network; there are {' and '.join(MODEL_NAMES)}."
        )
    return ResNet(num_classes, se_reduction=_SE_REDUCTION[name])


def _initialise(network: ResNet) -> None:
    gates = [module for module in network.modules() if isinstance(module, SqueezeExcite)]
    gate_layers = {id(layer) for gate in gates for layer in (gate.fc1, gate.fc2)}
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and id(module) not in gate_layers:
            module.reset_parameters()
    for gate in gates:
        gate.fc1.reset_parameters()
        gate.fc2.reset_parameters()
