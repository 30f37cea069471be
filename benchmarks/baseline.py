"""The baseline: DeepCluster as one plain loop, like the authors' released program.

It was written from scratch after the behaviour of that program, whose licence does not permit
copying its code:

- Every picture is opened, decoded and transformed individually by Pillow and torchvision, in the
  worker processes of a DataLoader, both in extraction and in training.
- Everything is computed in float32 and in torch's default memory order.
- Features are one array in memory. PCA, whitening and k-means are direct calls of faiss.
- A checkpoint is written by `torch.save`.

Nothing is slowed down: torch uses its default number of threads, one for each core, cuDNN's search
is on, and there are as many worker processes as cores.

Two errors of the program are not reproduced, which does not change the time: the sampler is uniform
over clusters, as in section 3.3, and labels are not renumbered.

Suffixes: N images, D dims, Q dims kept, K clusters, B batch, C channels, H rows, W columns.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.models.network import Network
from stages.runs.recipe import Recipe

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# The two filters of Sobel, for gradients across and down.
ONE_FILTER = [[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]
OTHER_FILTER = [[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]]


class PlainNetwork(nn.Module):
    """Our network in torch's default memory order, behind Sobel as two frozen convolutions.

    It reads images that are already normalised, and shares its weights with `network`.
    """

    def __init__(self, network: Network, *, channels: int, sobel: bool) -> None:
        """Take the layers of `network`, and the ReLU that training puts back behind them."""
        super().__init__()
        self.sobel = _frozen_sobel(channels) if sobel else nn.Identity()
        self.backbone = _plain_layers(network.backbone)
        self.last_relu = network.last_relu

    def feature(self, images_BCHW: Tensor) -> Tensor:
        """Return feature_BD, which is clustered."""
        return self.backbone(self.sobel(images_BCHW))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return hidden_BD, the input of the head."""
        return self.last_relu(self.feature(images_BCHW))


def _plain_layers(backbone: nn.Module) -> nn.Sequential:
    """Return convolution, batch normalisation, ReLU, max-pool; then the layers behind the maps."""
    layers = dict(backbone.named_children())
    plain: list[nn.Module] = []
    for block in layers.pop("maps").children():
        parts = dict(block.named_children())
        # Subclasses might compute more than a plain layer does.
        assert type(parts["conv"]) is nn.Conv2d
        assert type(parts["bn"]) is nn.BatchNorm2d
        plain += [parts["conv"], parts["bn"], nn.ReLU(inplace=True)]
        if "pool" in parts:
            plain.append(parts["pool"])
    return nn.Sequential(*plain, *layers.values())


def _frozen_sobel(channels: int) -> nn.Sequential:
    """Return the mean over the channels, and then the two filters, as in the released program."""
    grey = nn.Conv2d(channels, 1, kernel_size=1)
    nn.init.constant_(grey.weight, 1 / channels)
    edges = nn.Conv2d(1, 2, kernel_size=3, padding=1)
    edges.weight.data = torch.tensor([[ONE_FILTER], [OTHER_FILTER]])
    for layer in (grey, edges):
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return nn.Sequential(grey, edges).requires_grad_(False)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures by path, each opened and transformed when it is requested."""

    def __init__(
        self, paths: Sequence[Path], target_N: Ints, transform: transforms.Compose, mode: str
    ) -> None:
        """Open nothing yet; `mode` is Pillow's, `L` or `RGB`."""
        self.paths = paths
        self.target_N = target_N
        self.transform = transform
        self.mode = mode

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.paths)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """Return a float image (C, H, W), normalised, and its target."""
        with Image.open(self.paths[position]) as picture:
            converted = picture.convert(self.mode)
            image_CHW = self.transform(converted)
        assert isinstance(image_CHW, Tensor)
        return image_CHW, int(self.target_N[position])


class Baseline:
    """A run: its network, its optimiser, and the steps of an epoch."""

    def __init__(self, recipe: Recipe, paths: Sequence[Path], *, workers: int) -> None:
        """Build everything that a run builds once.

        Args:
            recipe: the source of all settings, so that both sides have equal ones.
            paths: paths of the original pictures; position i is image i.
            workers: number of processes that load pictures.
        """
        self.recipe = recipe
        self.paths = paths
        self.workers = workers
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True
        channels = recipe.dataset.channels
        # Our side starts with equal weights.
        network = restore_network(
            recipe.network, channels=channels, seed=recipe.seed, checkpoint=None
        )
        self.feature_dim = network.feature_dim
        self.network = PlainNetwork(network, channels=channels, sobel=recipe.network.sobel)
        self.network.to(self.device)
        # The frozen filters of Sobel are left out.
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        train = recipe.train
        self.optimizer = torch.optim.SGD(
            trained, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
        )
        self._mode = "L" if channels == 1 else "RGB"
        # Every view ends with these two transforms.
        mean_C = network.mean_C11.flatten().tolist()
        std_C = network.std_C11.flatten().tolist()
        self._end = [transforms.ToTensor(), transforms.Normalize(mean_C, std_C)]

    def extract(self) -> Floats:
        """Return features_ND of the central crops, in eval mode."""
        size = self.recipe.network.image_size
        view = [transforms.Resize(self.recipe.extract.resize), transforms.CenterCrop(size)]
        order_N = np.arange(len(self.paths))
        no_targets_N = np.zeros_like(order_N)
        loader = self._loader(order_N, no_targets_N, view, self.recipe.extract.batch_size)
        features_ND = np.zeros((len(self.paths), self.feature_dim), np.float32)
        start = 0
        self.network.eval()
        with torch.no_grad():
            for images_BCHW, _ in loader:
                feature_BD = self.network.feature(images_BCHW.to(self.device))
                end = start + len(feature_BD)
                features_ND[start:end] = feature_BD.cpu().numpy()
                start = end
        return features_ND

    def cluster(self, features_ND: Floats, *, seed: int) -> Ints:
        """Return the cluster of every image: k-means on whitened features of length 1."""
        cluster = self.recipe.cluster
        assert isinstance(cluster.k, int)
        assert isinstance(cluster.pca_dim, int)
        return cluster_features(
            features_ND, dim=cluster.pca_dim, k=cluster.k, iterations=cluster.iterations, seed=seed
        )

    def train(self, cluster_N: Ints, *, seed: int) -> float:
        """Train one epoch with a new head; return the mean loss, in nats."""
        train = self.recipe.train
        assert train.reassign_every == 1
        assert isinstance(train.batch_size, int)
        torch.manual_seed(seed)
        head = self._new_head()
        # Without momentum, as in the released program.
        head_optimizer = torch.optim.SGD(
            head.parameters(), lr=train.lr, weight_decay=train.weight_decay
        )
        order_M = balanced_order(cluster_N, np.random.default_rng(seed))
        loader = self._loader(order_M, cluster_N[order_M], self._random_view(), train.batch_size)
        criterion = nn.CrossEntropyLoss()
        self.network.train()
        loss_sum = 0.0
        for images_BCHW, target_B in loader:
            hidden_BD = self.network(images_BCHW.to(self.device))
            logits_BK = head(hidden_BD)
            loss = criterion(logits_BK, target_B.to(self.device))
            loss_sum += loss.item() * len(target_B)
            self.optimizer.zero_grad()
            head_optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            head_optimizer.step()
        return loss_sum / len(order_M)

    def save(self, path: Path) -> None:
        """Write the checkpoint of an epoch."""
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, path)

    def _new_head(self) -> nn.Linear:
        """Return a classifier of clusters with random weights."""
        k = self.recipe.cluster.k
        assert isinstance(k, int)
        head = nn.Linear(self.feature_dim, k)
        nn.init.normal_(head.weight, 0, 0.01)
        nn.init.zeros_(head.bias)
        return head.to(self.device)

    def _random_view(self) -> list[Any]:
        train = self.recipe.train
        crop = transforms.RandomResizedCrop(
            self.recipe.network.image_size, scale=train.crop_area, ratio=train.crop_ratio
        )
        return [crop, transforms.RandomHorizontalFlip(train.flip)]

    def _loader(
        self, order_M: Ints, target_M: Ints, view: list[Any], batch_size: int
    ) -> DataLoader[tuple[Tensor, int]]:
        paths = [self.paths[i] for i in order_M]
        transform = transforms.Compose([*view, *self._end])
        pictures = Pictures(paths, target_M, transform, self._mode)
        return DataLoader(
            pictures,
            batch_size=batch_size,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )


def reduce_features(features_ND: Floats, *, dim: int) -> Floats:
    """Return rows_NQ: projected by faiss's PCA, whitened, of length 1."""
    pca = faiss.PCAMatrix(features_ND.shape[1], dim, -0.5)
    pca.train(features_ND)
    rows_NQ = pca.apply(features_ND)
    return rows_NQ / np.linalg.norm(rows_NQ, axis=1, keepdims=True)


def cluster_features(features_ND: Floats, *, dim: int, k: int, iterations: int, seed: int) -> Ints:
    """Return the cluster of every row: faiss's PCA and k-means, on everything at once."""
    rows_NQ = reduce_features(features_ND, dim=dim)
    kmeans = faiss.Kmeans(
        dim,
        k,
        niter=iterations,
        max_points_per_centroid=len(rows_NQ),  # no sampling
        min_points_per_centroid=1,  # no warning
        seed=seed,
        gpu=torch.cuda.is_available(),
    )
    kmeans.train(rows_NQ)
    assert kmeans.index is not None
    _, nearest_N1 = kmeans.index.search(rows_NQ, 1)
    return nearest_N1[:, 0]


def balanced_order(cluster_N: Ints, generator: np.random.Generator) -> Ints:
    """Return N rows, every non-empty cluster equally often, shuffled: section 3.3."""
    num_images = len(cluster_N)
    clusters = np.unique(cluster_N)
    num_draws = num_images // len(clusters) + 1
    drawn: list[Ints] = []
    for cluster in clusters:
        members = np.flatnonzero(cluster_N == cluster)
        # Members repeat only where a cluster has too few.
        repeats = len(members) <= num_draws
        drawn.append(generator.choice(members, num_draws, replace=repeats))
    order_M = generator.permutation(np.concatenate(drawn))
    return order_M[:num_images]
