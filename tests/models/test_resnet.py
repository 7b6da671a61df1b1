import pytest
import torch

from tumorlens.errors import TumorlensError
from tumorlens.models.build import build_model
from tumorlens.models.resnet import BasicBlock, SqueezeExcite

PARAMETERS = {"resnet18": 11_178_564, "se_resnet18": 11_265_604}
BOTH = pytest.mark.parametrize("name", sorted(PARAMETERS))


@BOTH
def test_parameter_count_is_the_published_one(name: str) -> None:
    assert sum(p.numel() for p in build_model(name, 4).parameters()) == PARAMETERS[name]


def test_plain_state_dict_has_torchvisions_names_and_shapes() -> None:
    state = build_model("resnet18", 1000).state_dict()
    # torchvision's resnet18: 122 entries, batch norm's counters among them
    assert len(state) == 122
    assert tuple(state["conv1.weight"].shape) == (64, 3, 7, 7)
    assert tuple(state["layer1.1.conv2.weight"].shape) == (64, 64, 3, 3)
    assert tuple(state["layer2.0.downsample.0.weight"].shape) == (128, 64, 1, 1)
    assert tuple(state["layer4.0.downsample.1.running_var"].shape) == (512,)
    assert tuple(state["layer4.1.bn2.weight"].shape) == (512,)
    assert tuple(state["fc.weight"].shape) == (1000, 512)
    assert not any(".se." in key for key in state)


def test_all_but_the_last_layer_of_a_thousand_class_state_dict_loads() -> None:
    donor = build_model("resnet18", 1000, seed=1).state_dict()
    body = {key: value for key, value in donor.items() if not key.startswith("fc.")}
    network = build_model("resnet18", 4, seed=2)
    missing, unexpected = network.load_state_dict(body, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])


def test_se_network_has_a_gate_in_every_block_and_else_the_same_start() -> None:
    plain = build_model("resnet18", 4, seed=3).state_dict()
    gated = build_model("se_resnet18", 4, seed=3)
    blocks = [module for module in gated.modules() if isinstance(module, BasicBlock)]
    assert [block.se is not None for block in blocks] == [True] * 8
    state = gated.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.items())
    assert len(state) == len(plain) + 16


@BOTH
@pytest.mark.parametrize(("height", "width"), [(96, 160), (65, 33), (32, 32)])
def test_features_are_a_32nd_of_the_picture_rounded_up(name: str, height: int, width: int) -> None:
    network = build_model(name, 4).eval()
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = network.forward_features(images)
        logits = network(images)
        assert features.shape == (2, 512, -(-height // 32), -(-width // 32))
        assert logits.shape == (2, 4)
        torch.testing.assert_close(network.forward_head(features), logits)


@BOTH
def test_every_parameter_gets_a_gradient(name: str) -> None:
    network = build_model(name, 4)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network(images).square().sum().backward()
    without = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_gate_sits_between_second_batch_norm_and_addition() -> None:
    plain = BasicBlock(8, 8, 1, None).eval()
    gated = BasicBlock(8, 8, 1, 4).eval()
    gated.load_state_dict(plain.state_dict(), strict=False)
    assert gated.se is not None
    torch.nn.init.zeros_(gated.se.fc1.weight)
    x = torch.randn(2, 8, 5, 7, generator=torch.Generator().manual_seed(0))
    branch = plain.bn2(plain.conv2(torch.relu(plain.bn1(plain.conv1(x)))))
    torch.testing.assert_close(gated(x), torch.relu(0.5 * branch + x))


def test_same_seed_same_weights_and_global_state_untouched() -> None:
    before = torch.get_rng_state()
    one, two, other = (build_model("se_resnet18", 4, seed=s).state_dict() for s in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_unknown_network_is_refused_by_name() -> None:
    every = "resnet18, se_resnet18, resnet34, se_resnet34, or one of your own"
    with pytest.raises(TumorlensError, match=f"--model vgg.*{every}"):
        build_model("vgg", 4)


def test_gate_with_zero_weights_halves_the_input() -> None:
    gate = SqueezeExcite(32)
    for weight in gate.parameters():
        torch.nn.init.zeros_(weight)
    x = torch.randn(3, 32, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gate(x), x / 2)


def test_gate_is_the_formula_of_the_paper() -> None:
    gate = SqueezeExcite(32, reduction=8)
    x = torch.randn(2, 32, 3, 5, generator=torch.Generator().manual_seed(1))
    squeezed = x.sum(dim=(2, 3)) / 15
    hidden = (squeezed @ gate.fc1.weight.T).clamp(min=0)
    expected = 1 / (1 + torch.exp(-(hidden @ gate.fc2.weight.T)))
    torch.testing.assert_close(gate.gate(x), expected)
    torch.testing.assert_close(gate(x), x * expected.reshape(2, 32, 1, 1))


def test_two_layers_without_bias_cost_two_c_squared_over_reduction() -> None:
    assert sum(p.numel() for p in SqueezeExcite(512, 16).parameters()) == 2 * 512 * 32
    assert [name for name, _ in SqueezeExcite(64).named_parameters()] == [
        "fc1.weight",
        "fc2.weight",
    ]
