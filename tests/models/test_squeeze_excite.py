import torch

from tumorlens.models.squeeze_excite import SqueezeExcite


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
