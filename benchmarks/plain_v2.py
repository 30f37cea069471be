"""DeepCluster-v2 as one plain loop, written from the paper, to compare our pipeline with.

Caron et al. 2020 (arXiv:2006.09882), section 5.1 and appendices A.1 and D. Images are in memory,
torchvision makes the views one image at a time, and the bank is one tensor. No code is shared with
the pipeline. As in the paper, k-means clusters the bank, and an empty cluster keeps its centroid.
One thing differs from the released program: an image has the same row of the bank in every epoch,
so that no image is without a label.

Suffixes: N images, B batch, V views of the first kind, W all views of an image, H clusterings,
K clusters, Q values of an embedding, D values of a feature, S side in pixels, C channels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torchvision import models, transforms
from torchvision.transforms import functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EVALUATED_AT_ONCE = 256


@dataclass(frozen=True)
class Kind:
    """A kind of view: how many an image has, their side in pixels, and the area of the crop."""

    count: int
    size: int
    area: tuple[float, float]


@dataclass(frozen=True)
class Colour:
    """Random changes of colour, as in torchvision's `ColorJitter`."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    probability: float
    grey: float
    """Probability of a grey image."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run, named as the keys of a recipe."""

    network: str
    image_size: int
    resize: int
    hidden: int
    dim: int
    views: Sequence[Kind]
    crop_ratio: tuple[float, float]
    flip: float
    colour: Colour | None
    k: Sequence[int]
    iterations: int
    temperature: float
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    epochs: int
    """Epochs until the learning rate is 0; it falls as half a cosine."""
    seed: int


class PlainNetwork(nn.Module):
    """A ResNet with a projection head: linear, batch normalisation, ReLU, linear, length 1."""

    def __init__(self, name: str, *, hidden: int, dim: int) -> None:
        super().__init__()
        small = name == "resnet18-small"
        architecture = "resnet18" if small else name.removeprefix("torchvision:")
        body: Any = models.get_model(architecture)
        if small:  # for small images, the first layers keep their size
            body.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            body.maxpool = nn.Identity()
        width: int = body.fc.in_features
        body.fc = nn.Identity()
        self.body = body
        self.projection = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )

    def forward(self, kinds: Sequence[Tensor]) -> Tensor:
        """Return embeddings of length 1, of batches of one size each, one after the other."""
        features_D = [self.body(images_BCSS) for images_BCSS in kinds]
        return normalize(self.projection(torch.cat(features_D)), dim=1)


class PlainV2:
    """A run over images in memory."""

    def __init__(self, images: Sequence[Image.Image], settings: Settings) -> None:
        """Prepare the views, the network and its optimiser. The images are RGB."""
        torch.manual_seed(settings.seed)
        self.generator = np.random.default_rng(settings.seed)
        self.images, self.settings = images, settings
        self.transforms = [_transform(settings, kind) for kind in settings.views]
        self.network = PlainNetwork(
            settings.network, hidden=settings.hidden, dim=settings.dim
        ).train()
        self.optimiser = torch.optim.SGD(
            self.network.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.steps_an_epoch = math.ceil(len(images) / settings.batch_size)
        self.num_steps = 0
        self.bank_NVQ = torch.zeros(len(images), settings.views[0].count, settings.dim)

    @torch.no_grad()
    def fill_bank(self) -> None:
        """Compute the first bank: a pass in training mode that learns nothing."""
        self.network.train()
        for ids_B in self._batches():
            self.remember(ids_B, self.network(self._views(ids_B)))

    def cluster(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the centroids (K, Q) and labels (N) of each clustering of the bank."""
        centroids: list[Tensor] = []
        labels: list[Tensor] = []
        num_views = self.bank_NVQ.shape[1]
        for head, k in enumerate(self.settings.k):
            rows_NQ = self.bank_NVQ[:, head % num_views]
            centroids_KQ, label_N = self.spherical_kmeans(rows_NQ, k)
            centroids.append(centroids_KQ)
            labels.append(label_N)
        return centroids, labels

    def train_epoch(self) -> float:
        """Cluster the bank, and train on the labels for a pass; return the mean loss."""
        centroids, labels = self.cluster()
        self.network.train()
        losses: list[float] = []
        for ids_B in self._batches():
            embeddings_Q = self.network(self._views(ids_B))
            num_all_views = len(embeddings_Q) // len(ids_B)
            loss = torch.zeros(())
            for centroids_KQ, label_N in zip(centroids, labels, strict=True):
                scores_K = embeddings_Q @ centroids_KQ.T / self.settings.temperature
                loss = loss + cross_entropy(scores_K, label_N[ids_B].repeat(num_all_views))
            loss = loss / len(centroids)
            self.set_learning_rate()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.remember(ids_B, embeddings_Q.detach())
            self.num_steps += 1
            losses.append(float(loss.detach()))
        return float(np.mean(losses))

    @torch.no_grad()
    def features(self) -> NDArray[np.float32]:
        """Return features_ND of the backbone in evaluation mode, on central squares."""
        self.network.eval()
        central: Any = transforms.Compose(
            [
                transforms.Resize(self.settings.resize),
                transforms.CenterCrop(self.settings.image_size),
                _normalised,
            ]
        )
        features: list[NDArray[np.float32]] = []
        for start in range(0, len(self.images), EVALUATED_AT_ONCE):
            views: list[Tensor] = []
            for image in self.images[start : start + EVALUATED_AT_ONCE]:
                views.append(central(image))
            features.append(self.network.body(torch.stack(views)).numpy())
        return np.concatenate(features)

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield the images of each batch, all once, in a new order."""
        order_N = self.generator.permutation(len(self.images))
        yield from np.array_split(order_N, self.steps_an_epoch)

    def _views(self, ids_B: NDArray[np.int64]) -> list[Tensor]:
        """Return a batch of each kind (views · B, C, S, S), view after view."""
        kinds: list[Tensor] = []
        for kind, transform in zip(self.settings.views, self.transforms, strict=True):
            views = [transform(self.images[i]) for _ in range(kind.count) for i in ids_B]
            kinds.append(torch.stack(views))
        return kinds

    def remember(self, ids_B: NDArray[np.int64], embeddings_Q: Tensor) -> None:
        """Overwrite the rows of the bank: the views of the first kind are the first rows."""
        num_views = self.bank_NVQ.shape[1]
        for view in range(num_views):
            first = view * len(ids_B)
            self.bank_NVQ[ids_B, view] = embeddings_Q[first : first + len(ids_B)]

    def spherical_kmeans(self, rows_NQ: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return centroids of length 1 and the nearest of each row, from random rows on."""
        start_K = self.generator.choice(len(rows_NQ), k, replace=False)
        centroids_KQ = rows_NQ[start_K].clone()
        for _ in range(self.settings.iterations):
            label_N = (rows_NQ @ centroids_KQ.T).argmax(dim=1)
            sums_KQ = torch.zeros_like(centroids_KQ).index_add_(0, label_N, rows_NQ)
            filled_K = torch.bincount(label_N, minlength=k) > 0
            centroids_KQ[filled_K] = normalize(sums_KQ[filled_K], dim=1)
        return centroids_KQ, (rows_NQ @ centroids_KQ.T).argmax(dim=1)

    def set_learning_rate(self) -> None:
        """Follow half a cosine, from `lr` at the first step to 0 at the end."""
        share = self.num_steps / (self.settings.epochs * self.steps_an_epoch)
        rate = self.settings.lr * (1 + math.cos(math.pi * share)) / 2
        self.optimiser.param_groups[0]["lr"] = rate


def _transform(settings: Settings, kind: Kind) -> transforms.Compose:
    """Return the transform that makes a view: crop, flip and, if wanted, colours."""
    colour = settings.colour
    steps: list[object] = [
        transforms.RandomResizedCrop(kind.size, scale=kind.area, ratio=settings.crop_ratio),
        transforms.RandomHorizontalFlip(settings.flip),
    ]
    if colour is not None:
        jitter = transforms.ColorJitter(
            colour.brightness, colour.contrast, colour.saturation, colour.hue
        )
        steps.append(transforms.RandomApply([jitter], colour.probability))
        steps.append(transforms.RandomGrayscale(colour.grey))
    return transforms.Compose([*steps, _normalised])


def _normalised(image: Image.Image) -> Tensor:
    """Return a picture as (C, S, S), with ImageNet's mean and deviation taken out."""
    return functional.normalize(functional.to_tensor(image), list(MEAN), list(STD))
