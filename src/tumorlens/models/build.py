"""Networks by name: ours, or anybody's; and what must be known about any of them."""

import copy
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from tumorlens.errors import TumorlensError
from tumorlens.labels import MODEL_NAMES, MODELS, is_foreign
from tumorlens.models.resnet import ResNet, SqueezeExcite
from tumorlens.settings import MAP_LAYER

Factory = Callable[..., object]

# What a caller in Python gave in place of a name, in this process.
_GIVEN: dict[str, Factory] = {}


def build_model(name: str, num_classes: int, seed: int = 0) -> nn.Module:
    """Make a network as it is before training.

    Our own start alike: what they share gets the same numbers from the same `seed`, because the
    gates draw theirs last. Anybody's starts as its factory makes it.

    Args:
        name: one of ours, such as "se_resnet18"; or `package.module:factory`, `file.py:factory`
            or what `name_of` returned, called with `num_classes`.
        num_classes: K, number of logits, at least 1.
        seed: decides the initial weights; the global random state is left as it was.

    Raises:
        TumorlensError: no such network, or its code fails or makes none.
    """
    return build_and_tell(name, num_classes, seed)[0]


def build_and_tell(name: str, num_classes: int, seed: int = 0) -> tuple[nn.Module, str]:
    """`build_model`, and a sentence where the last layer was replaced; else ""."""
    with torch.random.fork_rng(devices=[]):
        if name not in MODEL_NAMES:
            torch.manual_seed(seed)
            return _foreign(name, num_classes)
        network = _ours(name, num_classes)
        torch.manual_seed(
            seed
        )  # only now: the constructors drew more numbers for the gated network
        _initialise(network)
    return network, ""


def build_shell(name: str, num_classes: int) -> nn.Module:
    """The same network to put weights into; ours on the device "meta", without numbers yet.

    Raises:
        TumorlensError: see `build_model`.
    """
    if name not in MODEL_NAMES:  # not every constructor can do without numbers
        return build_model(name, num_classes)
    with torch.device("meta"):
        return _ours(name, num_classes)


def build_random(name: str, num_classes: int, seed: int) -> nn.Module:
    """`build_model` with random weights, also where a factory would load trained ones."""
    network = build_model(name, num_classes, seed)
    if name not in MODEL_NAMES:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in network.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
    return network


def name_of(network: nn.Module | Factory) -> str:
    """The name under which a module, or what makes one, is known in this process from now on.

    A module is copied for each training, weights and all.
    """
    named = type(network) if isinstance(network, nn.Module) else network
    word = re.sub(r"\W+", "_", getattr(named, "__qualname__", type(named).__name__)).strip("_")
    name = f"{getattr(named, '__module__', '__main__')}:{word}"
    if isinstance(network, nn.Module):  # a class can have many
        known = [one for one, given in _GIVEN.items() if given is network]
        name = known[0] if known else f"{name}_{len(_GIVEN) + 1}"
    _GIVEN[name] = network
    return name


def is_given(name: str) -> bool:
    """Whether `name_of` returned it in this process."""
    return name in _GIVEN


def last_linear(network: nn.Module) -> nn.Linear | None:
    """The last linear layer, in the order of registration; None: there is none."""
    found = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return found[-1] if found else None


def logits_and_features(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) inputs to logits (N, K) and features (N, D): what enters the last linear layer.

    D is 0 where the logits do not come from such a layer: there are no features then.
    """
    head = last_linear(network)
    entered: list[Tensor] = []
    if head is None:
        return network(inputs), inputs.new_empty(inputs.shape[0], 0)
    with head.register_forward_pre_hook(lambda _, given: entered.append(given[0])):
        logits: Tensor = network(inputs)
    features: Tensor = entered[-1] if entered else inputs.new_empty(0)
    if features.shape[:-1] != logits.shape[:1] or head.out_features != logits.shape[-1]:
        features = inputs.new_empty(inputs.shape[0], 0)
    return logits, features


def map_layer(network: nn.Module) -> str:
    """The layer of maps unless another is named; of a network not ours, its last convolution.

    Raises:
        TumorlensError: it has none.
    """
    if isinstance(network, ResNet):
        return MAP_LAYER
    found: list[str] = [
        name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)
    ]
    if not found:
        raise TumorlensError(
            f"--layer: {type(network).__name__} has no convolution for a map; name a module whose "
            "output is a feature map (N, C, h, w)."
        )
    return found[-1]


def memory_format(network: nn.Module) -> torch.memory_format:
    """How weights and inputs lie in memory: channels last is 3 to 10% faster on CPU cores.

    Code of others may call `view` on what it computes, which channels last does not allow.
    """
    return torch.channels_last if isinstance(network, ResNet) else torch.contiguous_format


def check_output(network: nn.Module, name: str, num_classes: int, size: int) -> None:
    """Refuse a network that does not make (2, K) logits of two inputs (2, 3, size, size).

    Raises:
        TumorlensError: it fails, or gives something else.
    """
    training = network.training
    try:
        with torch.no_grad():
            found = network.eval()(torch.zeros(2, 3, size, size))
    except Exception as error:  # anybody's code
        raise _fault(name, f"fails on images (2, 3, {size}, {size})", error) from error
    finally:
        network.train(training)
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if shape != (2, num_classes):
        raise TumorlensError(
            f"--model {name}: makes {shape} of 2 images, expected logits (2, {num_classes}), one a "
            "class; let its factory take num_classes, or end in a linear layer."
        )


def _ours(name: str, num_classes: int) -> ResNet:
    _, blocks, se_reduction = MODELS[name]
    return ResNet(num_classes, blocks, se_reduction)


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


def _foreign(name: str, num_classes: int) -> tuple[nn.Module, str]:
    """What the user's own code makes; its last linear layer is made to fit where it must be."""
    factory = _GIVEN.get(name) or _imported(name)
    told = "takes no num_classes"
    try:
        if isinstance(factory, nn.Module):
            network: object = copy.deepcopy(factory)
        elif _takes_classes(factory):
            network, told = factory(num_classes=num_classes), ""
        else:
            network = factory()
    except Exception as error:  # anybody's code
        raise _fault(name, f"fails when it is called for {num_classes} classes", error) from error
    if not isinstance(network, nn.Module):
        raise TumorlensError(
            f"--model {name}: makes {type(network).__name__}, expected a torch.nn.Module."
        )
    head = last_linear(network) if told else None
    if head is None or head.out_features == num_classes:
        return network, ""
    path = next(path for path, module in network.named_modules() if module is head)
    outer, _, inner = path.rpartition(".")
    if not path:
        network = nn.Linear(head.in_features, num_classes, head.bias is not None)
    else:
        new = nn.Linear(head.in_features, num_classes, head.bias is not None)
        setattr(network.get_submodule(outer), inner, new)
    return network, (
        f"{name} {told}: its last linear layer, {path}, had {head.out_features} outputs and is "
        f"replaced by a fresh one of {num_classes}"
    )


def _takes_classes(factory: Factory) -> bool:
    try:
        taken = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # written in C
        return True
    kinds = {one.kind for one in taken.values()}
    return "num_classes" in taken or inspect.Parameter.VAR_KEYWORD in kinds


def _imported(name: str) -> Factory:
    place, _, word = name.rpartition(":")
    if not is_foreign(name):
        raise TumorlensError(
            f"--model {name}: no such network; expected {', '.join(MODEL_NAMES)}, or one of your "
            "own as package.module:factory or file.py:factory."
        )
    try:
        module = _run(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # anybody's code
        if isinstance(error, FileNotFoundError) or (
            isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}.")
        ):
            kind = "file" if place.endswith(".py") else "module to be imported"
            raise TumorlensError(
                f"--model {name}: there is no {kind} {place}; a network of your own needs the same "
                "code wherever it is used, so go to its folder or install it."
            ) from error
        raise _fault(name, "cannot be imported", error) from error
    found: Factory | None = getattr(module, word, None)
    if found is None or not callable(found):
        what = "nothing" if found is None else type(found).__name__
        raise TumorlensError(
            f"--model {name}: {word} in {place} is {what}, expected a function or class that "
            "makes a torch.nn.Module."
        )
    return found


def _run(file: Path) -> ModuleType:
    """The module that a Python file makes."""
    spec = importlib.util.spec_from_file_location(f"tumorlens_network_{file.stem}", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _fault(name: str, what: str, error: Exception) -> TumorlensError:
    reason = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    return TumorlensError(
        f"--model {name}: {what} ({type(error).__name__}{': ' * bool(reason)}{reason}); correct "
        "its code."
    )
