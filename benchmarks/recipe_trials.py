"""Short training runs that ask one question each: which part of a recipe earns its keep?

Every trial trains on one patient-disjoint fold of the public set and is judged on that fold's
validation run alone, at its last step (no epoch is picked), for two seeds that run side by side on
one core each. A plain loop, so that a candidate can be tried here before it is worth a place in the
package; what is kept is built there. A trial changes the settings named on its command line and
nothing else:

    python benchmarks/recipe_trials.py --name strong --rotation 20 --shift 0.1

appends one row a seed to results/recipe/trials.csv. Takes the annotations CSV of the folds.
"""

import argparse
import csv
import math
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from machine import facts
from tumorlens.data import splits
from tumorlens.data.augment import Augmentation, augment, uniform
from tumorlens.data.duplicates import duplicate_groups
from tumorlens.data.dataset import Dataset, load_for_training
from tumorlens.device import kept_memory
from tumorlens.explain.regions import read_boxes
from tumorlens.explain.map_metrics import head
from tumorlens.models.build import build_model
from tumorlens.models.resnet import BasicBlock, ResNet

RESULTS = Path(__file__).parent.parent / "results" / "recipe" / "trials.csv"
FIGURES = ("accuracy", "tumor_accuracy", "nll", "macro_f1", "glioma_recall", "meningioma_recall")


def flags() -> argparse.ArgumentParser:
    """Defaults are the first trial's settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/brain-tumor-mri"))
    parser.add_argument(
        "--splits", type=Path, default=Path("../shared/data/annotations_training.csv")
    )
    parser.add_argument("--fold", type=int, default=1)
    parser.add_argument("--model", default="se_resnet18")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--sizes", default="64:1", help="side:share of the epochs, comma separated")
    parser.add_argument("--score_size", type=int, default=0, help="0: the last training side")
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.0, help="weight decay")
    parser.add_argument(
        "--schedule", default="one_cycle", choices=["one_cycle", "cosine", "linear"]
    )
    parser.add_argument("--warmup", type=float, default=0.3, help="share of the steps")
    parser.add_argument("--label_smoothing", type=float, default=0.0)
    parser.add_argument("--focal", type=float, default=0.0)
    parser.add_argument("--mixup", type=float, default=0.0)
    parser.add_argument("--ema", type=float, default=0.0, help="decay per step; scored instead")
    parser.add_argument("--zero_init", action="store_true", help="last batch norm of each block")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--dedup", action="store_true", help="one image of each group of copies")
    parser.add_argument("--rotation", type=float, default=10.0)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--shift", type=float, default=0.05)
    parser.add_argument("--brightness", type=float, default=0.1)
    parser.add_argument("--contrast", type=float, default=0.15)
    parser.add_argument("--gamma", type=float, default=0.0, help="largest |log gamma|")
    parser.add_argument("--bias_field", type=float, default=0.0, help="largest change at an edge")
    parser.add_argument("--erase", type=float, default=0.0, help="side of a grey square, share")
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--blur", type=float, default=0.0, help="largest sigma, pixels")
    parser.add_argument("--tta", action="store_true", help="average with the mirrored picture")
    parser.add_argument("--blurpool", action="store_true")
    parser.add_argument("--standardise", action="store_true", help="each picture by itself")
    parser.add_argument("--crop_head", action="store_true", help="fill the square with the head")
    parser.add_argument("--box_weight", type=float, default=0.0, help="of the box loss")
    parser.add_argument("--box_layer", default="layer3")
    parser.add_argument("--note", default="")
    parser.add_argument("--curve", action="store_true", help="score after every epoch and print")
    return parser


def load(args: argparse.Namespace, size: int) -> Dataset:
    """The fold's pictures."""
    assignment = splits.assignment(args.splits, args.fold)
    if not args.crop_head:
        return load_for_training(args.data, size, assignment=assignment)
    larger = load_for_training(args.data, size * 3 // 2, assignment=assignment)
    return replace(larger, images=np.stack([crop_to_head(image, size) for image in larger.images]))


def crop_to_head(image: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """The square about the head, a twentieth larger than its longer side, at size x size pixels."""
    inside = head(image)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    half = 0.525 * (max(np.ptp(rows), np.ptp(columns)) + 1)
    y, x = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
    corners = (x - half, y - half, x + half, y + half)
    margin = image.shape[0]
    padded = Image.fromarray(np.pad(image, margin))
    box = tuple(round(corner) + margin for corner in corners)
    return np.asarray(padded.resize((size, size), Image.Resampling.BILINEAR, box=box))


def training_groups(args: argparse.Namespace, data: Dataset) -> np.ndarray[Any, Any]:
    """(N,) group of each training image: images of one group take turns, an epoch each."""
    train = data.indices("train")
    if not args.dedup:
        return np.arange(len(train))
    return duplicate_groups(data.fingerprints[train])


def epoch_order(
    train: np.ndarray[Any, Any], groups: np.ndarray[Any, Any], seed: int, epoch: int
) -> np.ndarray[Any, Any]:
    """One image of each group, in random order."""
    order = np.random.default_rng((seed, epoch)).permutation(len(train))
    return train[order[np.unique(groups[order], return_index=True)[1]]][
        np.random.default_rng((seed, epoch, 1)).permutation(len(np.unique(groups)))
    ]


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for convolutions (Jordan 2024), AdamW for everything else."""

    def __init__(self, network: nn.Module, lr: float, decay: float) -> None:
        conv = [p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 3]
        ids = {id(p) for p in conv}
        rest = [p for p in network.parameters() if id(p) not in ids]
        super().__init__(
            [{"params": conv, "lr": lr, "share": 1.0}, {"params": rest, "lr": lr, "share": 1.0}],
            {"lr": lr},
        )
        self.conv = conv
        self.decay = decay
        self.adam = torch.optim.AdamW(rest, lr=1e-3, weight_decay=decay, fused=True)
        self.peak = lr

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002
        lr = self.param_groups[0]["lr"]
        for group in self.adam.param_groups:
            group["lr"] = 1e-3 * lr / self.peak
        self.adam.step()
        for p in self.conv:
            state = self.state[p]
            momentum = state.setdefault("m", torch.zeros_like(p))
            momentum.lerp_(p.grad, 0.05)
            update = orthogonal(p.grad.lerp(momentum, 0.95).reshape(len(p), -1))
            scale = max(1, update.shape[0] / update.shape[1]) ** 0.5
            p.mul_(1 - lr * self.decay).add_(update.reshape(p.shape), alpha=-lr * scale)


def orthogonal(g: Tensor, steps: int = 3) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly (quintic Newton-Schulz)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def optimizer(args: argparse.Namespace, network: nn.Module) -> torch.optim.Optimizer:
    """By name; batch norms and biases are not decayed."""
    if args.optimizer == "muon":
        return Muon(network, args.lr, args.decay)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": args.decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if args.optimizer == "sgd":
        return torch.optim.SGD(groups, args.lr, momentum=0.9, nesterov=True, fused=True)
    if args.optimizer == "adamw":
        return torch.optim.AdamW(groups, args.lr, fused=True)
    return torch.optim.Adam(groups, args.lr, fused=True)


def rate(args: argparse.Namespace, progress: float) -> float:
    """Share of the highest learning rate after `progress` (0..1) of the run."""
    if progress < args.warmup:
        if args.schedule == "one_cycle":
            return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / args.warmup)) / 2
        return progress / args.warmup
    left = (progress - args.warmup) / (1 - args.warmup)
    if args.schedule == "linear":
        return 1 - left
    return (1 + math.cos(math.pi * left)) / 2


def more_changes(
    args: argparse.Namespace, pictures: Tensor, indices: Tensor, seed: int, epoch: int
) -> Tensor:
    """The candidates that the package's `augment` does not have."""
    count, side, _ = pictures.shape
    drawn = torch.as_tensor(
        uniform(seed + 1_000_003, epoch, indices.numpy(), 12), dtype=torch.float32
    )
    symmetric = drawn * 2 - 1
    if args.gamma:
        power = torch.exp(args.gamma * symmetric[:, 0]).reshape(-1, 1, 1)
        pictures = pictures.clamp(min=1e-4) ** power
    if args.bias_field:
        axis = torch.linspace(-1, 1, side)
        x, y = axis[None, None, :], axis[None, :, None]
        c = symmetric[:, 1:6].reshape(count, 5, 1, 1)
        field = c[:, 0] * x + c[:, 1] * y + c[:, 2] * x * y + c[:, 3] * x**2 + c[:, 4] * y**2
        pictures = pictures * torch.exp(args.bias_field * field)
    if args.blur:
        sigma = (args.blur * drawn[:, 6]).clamp(min=0.05)
        axis = torch.arange(-2, 3.0)
        kernel = torch.exp(-(axis**2)[None] / (2 * sigma[:, None] ** 2))
        kernel = kernel / kernel.sum(1, keepdim=True)
        x = F.conv2d(pictures[None], kernel[:, None, :, None], padding=(2, 0), groups=count)
        pictures = F.conv2d(x, kernel[:, None, None, :], padding=(0, 2), groups=count)[0]
    if args.noise:
        pictures = pictures + args.noise * drawn[:, 7, None, None] * torch.randn(pictures.shape)
    if args.erase:
        half = args.erase / 2 * drawn[:, 8]
        axis = (torch.arange(side) + 0.5) / side
        inside_x = (axis[None] - drawn[:, 9, None]).abs() < half[:, None]
        inside_y = (axis[None] - drawn[:, 10, None]).abs() < half[:, None]
        box = inside_y[:, :, None] & inside_x[:, None, :]
        pictures = torch.where(box, drawn[:, 11, None, None], pictures)
    return pictures.clamp(0, 1)


def changes(args: argparse.Namespace) -> Augmentation:
    """The package's own part of the augmentation."""
    return Augmentation(
        rotation=args.rotation,
        scale=args.scale,
        shift=args.shift,
        brightness=args.brightness,
        contrast=args.contrast,
    )


class BoxLoss:
    """A second loss: does each place of a layer know which class's box covers it?

    Boxes are those of the splits file; images of `notumor` are known to have none. The layer is
    hooked where this is made: copies of the network that exist by then are not watched.
    """

    def __init__(self, args: argparse.Namespace, network: ResNet, data: Dataset, side: int) -> None:
        boxes = read_boxes(args.splits)
        named = [data.classes[label] for label in data.labels]
        self.masks = torch.zeros(len(data.paths), side, side)
        self.known = torch.zeros(len(data.paths))
        for index, (path, name) in enumerate(zip(data.paths, named, strict=True)):
            if path in boxes:
                self.masks[index] = torch.from_numpy(boxes.region(path, side, side))
            self.known[index] = float(path in boxes or name == "notumor")
        layer = network.get_submodule(args.box_layer)
        width = [m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)][-1].num_features
        self.head = nn.Conv2d(width, len(data.classes), 1)
        nn.init.constant_(self.head.bias, -3.0)
        self.features = torch.empty(0)
        layer.register_forward_hook(self._keep)
        self.moves = replace(changes(args), brightness=0, contrast=0)

    def _keep(self, _layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.features = output

    def __call__(self, indices: Tensor, labels: Tensor, seed: int, epoch: int) -> Tensor:
        """Mean over the images whose boxes are known, of the batch that the network saw last."""
        answers, known = self.head(self.features), self.known[indices]
        moved = augment(self.masks[indices], indices, self.moves, seed, epoch)
        truth = torch.zeros_like(answers)
        cells = F.adaptive_avg_pool2d(moved[:, None], answers.shape[-2:])
        truth[torch.arange(len(labels)), labels] = cells[:, 0]
        losses = F.binary_cross_entropy_with_logits(answers, truth, reduction="none")
        return (losses.mean((1, 2, 3)) * known).sum() / known.sum().clamp(min=1)


def figures(logits: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Validation figures at one moment."""
    predicted = logits.argmax(1)
    recall = [float((predicted[labels == k] == k).float().mean()) for k in range(len(classes))]
    precision = [
        float((labels[predicted == k] == k).float().mean()) if (predicted == k).any() else 0.0
        for k in range(len(classes))
    ]
    f1 = [2 * p * r / max(p + r, 1e-9) for p, r in zip(precision, recall, strict=True)]
    tumor = [k for k, name in enumerate(classes) if name != "notumor"]
    rows = torch.isin(labels, torch.tensor(tumor))
    three = torch.tensor(tumor)[logits[rows][:, tumor].argmax(1)]
    return {
        "accuracy": float((predicted == labels).float().mean()),
        "tumor_accuracy": float((three == labels[rows]).float().mean()),
        "nll": float(F.cross_entropy(logits, labels)),
        "macro_f1": sum(f1) / len(f1),
        "glioma_recall": recall[classes.index("glioma")],
        "meningioma_recall": recall[classes.index("meningioma")],
    }


def prepare(args: argparse.Namespace, network: ResNet) -> None:
    """Candidates that change the network."""
    for module in network.modules():
        if isinstance(module, BasicBlock) and args.zero_init:
            nn.init.zeros_(module.bn2.weight)
    if args.dropout:
        network.avgpool = nn.Sequential(network.avgpool, nn.Dropout(args.dropout))  # type: ignore[assignment]
    if args.blurpool:
        pool = nn.MaxPool2d(3, stride=1, padding=1)
        blur = nn.Conv2d(64, 64, 3, stride=2, padding=1, groups=64, bias=False)
        kernel = torch.tensor([1.0, 2.0, 1.0])
        blur.weight.data.copy_((kernel[:, None] * kernel / 16).expand(64, 1, 3, 3))
        blur.weight.requires_grad_(requires_grad=False)
        network.maxpool = nn.Sequential(pool, blur)  # type: ignore[assignment]


def trial(args: argparse.Namespace, seed: int) -> dict[str, Any]:  # noqa: PLR0915 (one run, top to bottom)
    """Train once; return the last step's validation figures."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    parts = [part.split(":") for part in args.sizes.split(",")]
    sides = [int(side) for side, _ in parts]
    ends = np.cumsum([float(share) for _, share in parts])
    data = {side: load(args, side) for side in {*sides, args.score_size or sides[-1]}}
    any_size = data[sides[0]]
    train = any_size.indices("train")
    groups = training_groups(args, any_size)
    valid = any_size.indices("valid")
    pixels = any_size.images[train]
    mean, deviation = float(pixels.mean() / 255), float(pixels.std() / 255)
    network = build_model(args.model, len(any_size.classes), seed)
    prepare(args, network)
    network.to(memory_format=torch.channels_last)
    average = (
        torch.optim.swa_utils.AveragedModel(
            network,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(args.ema),
            use_buffers=True,
        )
        if args.ema
        else None
    )
    steps_an_epoch = len(np.unique(groups)) // args.batch
    steps = round(steps_an_epoch * args.epochs)
    optim = optimizer(args, network)
    boxes = BoxLoss(args, network, any_size, sides[-1]) if args.box_weight else None
    if boxes:
        optim.add_param_group({"params": list(boxes.head.parameters()), "weight_decay": args.decay})
    settings = changes(args)
    valid_labels = torch.from_numpy(any_size.labels[valid])

    def inputs(pictures: Tensor) -> Tensor:
        normal = ((pictures - mean) / deviation)[:, None].expand(-1, 3, -1, -1)
        if args.standardise:
            inside = (pictures > pictures.mean((1, 2), keepdim=True)).float()
            count = inside.sum((1, 2), keepdim=True).clamp(min=1)
            centre = (pictures * inside).sum((1, 2), keepdim=True) / count
            spread = (((pictures - centre) ** 2 * inside).sum((1, 2), keepdim=True) / count).sqrt()
            normal = ((pictures - centre) / (spread + 1e-3))[:, None].expand(-1, 3, -1, -1)
        return normal.contiguous(memory_format=torch.channels_last)

    def score() -> dict[str, float]:
        scored = average.module if average else network
        side = args.score_size or sides[-1]
        pictures = torch.from_numpy(data[side].images[valid]).float() / 255
        scored.eval()
        with torch.inference_mode():
            logits = torch.cat([scored(inputs(part)) for part in pictures.split(128)])
            if args.tta:
                mirrored = torch.cat([scored(inputs(p.flip(-1))) for p in pictures.split(128)])
                logits = torch.logsumexp(torch.stack([logits, mirrored]).log_softmax(-1), 0)
        network.train()
        return figures(logits, valid_labels, any_size.classes)

    network.train()
    seconds, order, started = 0.0, np.empty(0, dtype=np.int64), time.perf_counter()
    for step in range(steps):
        epoch, within = divmod(step, steps_an_epoch)
        if within == 0:
            order = epoch_order(train, groups, seed, epoch)
        side = sides[min(int(np.searchsorted(ends, step / steps, side="right")), len(sides) - 1)]
        chosen = order[within * args.batch : (within + 1) * args.batch]
        images = torch.from_numpy(data[side].images[chosen]).float() / 255
        indices = torch.from_numpy(chosen)
        labels = torch.from_numpy(any_size.labels[chosen])
        pictures = more_changes(
            args, augment(images, indices, settings, seed, epoch), indices, seed, epoch
        )
        share = rate(args, step / steps)
        for group in optim.param_groups:
            group["lr"] = args.lr * share
        targets = F.one_hot(labels, len(any_size.classes)).float()
        if args.mixup:
            weight = float(np.random.default_rng((seed, epoch, step)).beta(args.mixup, args.mixup))
            pictures = weight * pictures + (1 - weight) * pictures.flip(0)
            targets = weight * targets + (1 - weight) * targets.flip(0)
        logits = network(inputs(pictures))
        if args.focal:
            log = logits.log_softmax(1)
            loss = -(targets * (1 - log.exp()) ** args.focal * log).sum(1).mean()
        else:
            loss = F.cross_entropy(logits, targets, label_smoothing=args.label_smoothing)
        if boxes:
            loss = loss + args.box_weight * boxes(indices, labels, seed, epoch)
        loss.backward()
        optim.step()
        optim.zero_grad(set_to_none=True)
        if average:
            average.update_parameters(network)
        if args.curve and within == steps_an_epoch - 1:
            seconds += time.perf_counter() - started
            values = score()
            print(
                seed,
                epoch + 1,
                f"{seconds:.0f}s",
                {k: round(v, 4) for k, v in values.items()},
                flush=True,
            )
            started = time.perf_counter()
    seconds += time.perf_counter() - started
    return {"images": len(np.unique(groups)), "steps": steps, "seconds": round(seconds), **score()}


def _run(job: tuple[argparse.Namespace, int]) -> dict[str, Any]:
    with kept_memory():
        return trial(*job)


def main() -> None:
    """Run the trial for each seed at once, add the rows to the table."""
    parser = flags()
    args = parser.parse_args()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as `tumorlens train`
    for part in args.sizes.split(","):
        load(args, int(part.split(":")[0]))  # decode before the clocks start
    with multiprocessing.get_context("spawn").Pool(len(args.seeds)) as pool:
        rows = pool.map(_run, [(args, seed) for seed in args.seeds])
    settings = {
        key: value
        for key, value in vars(args).items()
        if key not in ("name", "data", "splits", "fold", "seeds", "note", "curve")
    }
    changed = " ".join(
        f"--{key} {value}" for key, value in settings.items() if value != parser.get_default(key)
    )
    new = not RESULTS.exists()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(
                [
                    "trial",
                    "changed",
                    "fold",
                    "seed",
                    "images",
                    "steps",
                    "seconds",
                    *FIGURES,
                    "commit",
                ]
            )
        for seed, row in zip(args.seeds, rows, strict=True):
            numbers = [f"{row[name]:.4f}" for name in FIGURES]
            writer.writerow(
                [
                    args.name,
                    changed,
                    args.fold,
                    seed,
                    row["images"],
                    row["steps"],
                    row["seconds"],
                    *numbers,
                    facts()["commit"],
                ]
            )
    means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in FIGURES}
    print(args.name, changed, means, [row["seconds"] for row in rows], flush=True)


if __name__ == "__main__":
    main()
