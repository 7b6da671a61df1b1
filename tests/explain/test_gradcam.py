import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import Tensor, nn

from tumorlens.errors import TumorlensError
from tumorlens.explain.gradcam import _geometric_mean, grad_cam
from tumorlens.models.build import build_model
from tumorlens.models.resnet import ResNet
from tumorlens.settings import METHOD_NAMES

IMAGES = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["resnet18", "se_resnet18"])
def model(request: pytest.FixtureRequest) -> ResNet:
    network = build_model(request.param, 4, seed=2)
    network.train()
    with torch.no_grad():
        network(IMAGES)  # batch norm's running metrics are no longer the trivial ones
    return network.eval()


@pytest.mark.parametrize("layer", ["layer4", "layer3", "layer2.0", "layer4.1.conv1"])
def test_map_is_captums(model: ResNet, layer: str) -> None:
    found = grad_cam(model, IMAGES, 2, layer)
    oracle = LayerGradCam(model, dict(model.named_modules())[layer])
    expected = oracle.attribute(IMAGES, target=2, relu_attributions=True)[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_map_of_the_last_stage_is_the_class_weights_times_the_features(model: ResNet) -> None:
    # Behind it come the mean over places and one linear layer: the gradient is known.
    targets = torch.tensor([0, 3, 1])
    with torch.no_grad():
        features = model.forward_features(IMAGES)
        weights = model.fc.weight[targets] / 6
        expected = torch.einsum("nc,nchw->nhw", weights, features).relu()
    found = grad_cam(model, IMAGES, targets, "layer4")
    assert found.shape == (3, 2, 3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_each_image_is_explained_for_its_own_class(model: ResNet) -> None:
    together = grad_cam(model, IMAGES, torch.tensor([3, 0, 2]), "layer3")
    default = grad_cam(model, IMAGES, 1)
    assert torch.equal(default, grad_cam(model, IMAGES, 1, "layer2*layer3"))
    for row, target in enumerate((3, 0, 2)):
        alone = grad_cam(model, IMAGES[row : row + 1], target, "layer3")
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", list(METHOD_NAMES))
def test_last_stage_needs_no_backward_pass_and_gives_autograds_result(
    model: ResNet, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = torch.tensor([0, 3, 1])
    wrapped = nn.Sequential(model)  # no ResNet by its class: autograd
    expected = grad_cam(wrapped, IMAGES, targets, "0.layer4", method)
    monkeypatch.setattr(torch.autograd, "grad", None)
    for layer in ("layer4", "layer4.1"):
        found = grad_cam(model, IMAGES, targets, layer, method)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert found.max() > 0
        assert not found.requires_grad


def _features_and_gradient(model: ResNet, layer: str, target: int) -> tuple[Tensor, Tensor]:
    kept = []
    module = dict(model.named_modules())[layer]
    with module.register_forward_hook(lambda _, __, output: kept.append(output)):
        score = model(IMAGES)[:, target].sum()
    (gradient,) = torch.autograd.grad(score, kept[0])
    return kept[0].detach(), gradient


@pytest.mark.parametrize("layer", ["layer4", "layer3", "layer2.0"])
def test_hirescam_is_captums_gradient_times_activation_summed(model: ResNet, layer: str) -> None:
    oracle = LayerGradientXActivation(model, dict(model.named_modules())[layer])
    expected = oracle.attribute(IMAGES, target=2).sum(dim=1).relu()
    found = grad_cam(model, IMAGES, 2, layer, "hirescam")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", ["layer4", "layer3"])
def test_layercam_and_gradcam_plus_plus_are_their_papers_sums(model: ResNet, layer: str) -> None:
    features, gradient = _features_and_gradient(model, layer, 1)
    layercam = torch.zeros_like(features[:, 0])
    plus_plus = torch.zeros_like(features[:, 0])
    for n in range(features.shape[0]):
        for c in range(features.shape[1]):
            a, g = features[n, c].double(), gradient[n, c].double()
            layercam[n] += (g.clamp(min=0) * a).float()
            below = 2 * g**2 + a.sum() * g**3
            share = torch.where(below == 0, 0.0, g**2 / below)
            plus_plus[n] += ((share * g.clamp(min=0)).sum() * a).float()
    for method, expected in (("layercam", layercam), ("gradcam++", plus_plus)):
        found = grad_cam(model, IMAGES, 1, layer, method)
        torch.testing.assert_close(found, expected.relu(), atol=1e-5, rtol=1e-3)


def test_product_of_two_layers_is_their_geometric_mean_at_the_finers_cells(model: ResNet) -> None:
    coarse = grad_cam(model, IMAGES, 1, "layer4")
    fine = grad_cam(model, IMAGES, 1, "layer3")
    both = grad_cam(model, IMAGES, 1, "layer3*layer4")
    assert both.shape == fine.shape == (3, 4, 6)
    # cell i of the coarse layer lies on cell 2 i of the fine one
    expected = (coarse * fine[:, ::2, ::2]).sqrt()
    torch.testing.assert_close(both[:, ::2, ::2], expected, atol=1e-6, rtol=1e-4)
    between = (coarse[:, 0, 0] + coarse[:, 0, 1]) / 2
    torch.testing.assert_close(both[:, 0, 1], (between * fine[:, 0, 1]).sqrt())


class Toy(nn.Module):
    """Two channels, pooled; logit 0 is 2 a - b, logit 1 is b: Grad-CAM by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(2, 2, bias=False)
        self.fc.weight = nn.Parameter(torch.tensor([[2.0, -1.0], [0.0, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.features(x)).mean(dim=(2, 3)))


def test_map_by_hand_with_an_in_place_relu_behind_the_layer() -> None:
    x = torch.tensor([[[[4.0, -8.0], [0.5, 1.0]], [[1.0, 2.0], [6.0, 0.5]]]])
    before = x.clone()
    found = grad_cam(Toy(), x, 0, "features")
    # mean gradient: channel a passes the ReLU at 3 of 4 places, channel b at 4 of 4
    weight_a, weight_b = 2 / 4 * 3 / 4, -1 / 4
    expected = (weight_a * before[:, 0] + weight_b * before[:, 1]).clamp(min=0)
    torch.testing.assert_close(found, expected)
    assert torch.equal(x, before)


def _state(model: nn.Module) -> tuple:
    return (
        sum(len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()),
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad for parameter in model.parameters()],
    )


@pytest.mark.parametrize("layer", ["layer4", "layer3"])
def test_nothing_is_left_behind(model: ResNet, layer: str) -> None:
    model.train()
    model.layer1.eval()  # a mixed mode comes back mixed
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    before = _state(model)
    grad_cam(model, IMAGES, 1, layer)
    assert _state(model) == before
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert IMAGES.grad is None
    assert not IMAGES.requires_grad


def test_nothing_is_left_behind_after_an_error(model: ResNet) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken layer")

    model.train()
    handle = model.layer4.register_forward_hook(fail)
    before = _state(model)
    for layer in ("layer3", "layer1*layer2"):
        with pytest.raises(RuntimeError, match="broken layer"):
            grad_cam(model, IMAGES, 1, layer)
        assert _state(model) == before
    with pytest.raises(ValueError, match="expected 4D"):
        grad_cam(model, IMAGES[:, :, 0], 1, "layer3")
    assert _state(model) == before
    handle.remove()


@pytest.mark.parametrize("layer", ["layer4", "layer3"])
def test_frozen_parameters_and_callers_without_gradients_do_no_harm(
    model: ResNet, layer: str
) -> None:
    expected = grad_cam(model, IMAGES, 1, layer)
    model.requires_grad_(False)
    torch.testing.assert_close(grad_cam(model, IMAGES, 1, layer), expected)
    with torch.no_grad():
        torch.testing.assert_close(grad_cam(model, IMAGES, 1, layer), expected)
    with torch.inference_mode():
        found = grad_cam(model, IMAGES * 1, 1, layer)
    torch.testing.assert_close(found, expected)


def test_unknown_layer_lists_the_layers_there_are(model: ResNet) -> None:
    with pytest.raises(
        TumorlensError, match=r"--layer layer9: .*did you mean layer.*layer1.0.*layer4, layer4.0"
    ):
        grad_cam(model, IMAGES, 0, "layer9")
    with pytest.raises(TumorlensError, match=r"--layer layer9: "):
        grad_cam(model, IMAGES, 0, "layer4*layer9")
    with pytest.raises(TumorlensError, match=r"--layer fc: gives \(3, 4\), expected a feature map"):
        grad_cam(model, IMAGES, 0, "fc")
    with pytest.raises(TumorlensError, match=r"--layer fc: gives \(3, 4\), expected a feature map"):
        grad_cam(model, IMAGES, 0, "layer3*fc")


@pytest.mark.parametrize("method", list(METHOD_NAMES))
@pytest.mark.parametrize("frozen", [False, True])
def test_two_layers_take_one_pass_each_way_and_give_the_maps_of_two_passes(
    model: ResNet, method: str, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.requires_grad_(not frozen)
    apart = [grad_cam(model, IMAGES, 1, layer, method) for layer in ("layer1", "layer2")]
    forward, backward, original = [], [], torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *args, **more: backward.append(1) or original(*args, **more)
    )
    with model.conv1.register_forward_hook(lambda *_: forward.append(1)):
        for layer in ("layer1*layer2", "layer2*layer1"):
            found = grad_cam(model, IMAGES, 1, layer, method)
            expected = _geometric_mean(apart)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
            assert not found.requires_grad
    assert len(forward) == 2
    assert len(backward) == 2


class TwoBranches(nn.Module):
    """Logit 0 is the sum of both branches' means; neither branch follows from the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.one(x), self.other(x)
        return (one.relu_() + other).mean(dim=(2, 3))


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_side_by_side_are_explained_in_one_pass_too(frozen: bool) -> None:
    branches = TwoBranches().requires_grad_(not frozen)
    with torch.no_grad():
        branches.one.weight.fill_(2)
        branches.other.weight.fill_(3)
    x = torch.rand(2, 1, 4, 4) + 1
    apart = [grad_cam(branches, x, 0, layer) for layer in ("one", "other")]
    found = grad_cam(branches, x, 0, "one*other")
    assert found.min() > 0
    torch.testing.assert_close(found, _geometric_mean(apart), atol=1e-6, rtol=1e-6)
