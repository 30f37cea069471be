"""A fully convolutional network: fc6, fc7 and the scores of classes at every position of a map.

Source: Shelhamer, Long, Darrell 2017 (arXiv:1605.06211), with one stream and a stride of 32 pixels,
like their FCN-AlexNet and FCN-32s.
Suffixes: N pictures, K windows of their maps, S side of a window, D values of a window, C channels
or classes, H rows and W columns of a picture, h rows and w columns of its scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from deepcluster_core.config import Precision
from deepcluster_core.data.decode import Pixels
from deepcluster_core.evaluation.voc.dataset import VOID
from deepcluster_core.evaluation.voc.fine_tuning import Part, freeze
from deepcluster_core.evaluation.voc.segmentation.fields import Axis, fields_of
from deepcluster_core.features import to_device, to_images
from deepcluster_core.models.dense import Dense
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast, exact_float32
from deepcluster_core.training.learner import Learner, Sgd

Mask = NDArray[np.uint8]
"""The class number of each pixel (H, W), or VOID."""


@dataclass(frozen=True)
class Transfer:
    """The settings of training, and of the padding around a picture."""

    part: Part
    train_batch_norm: bool
    """Whether scales and shifts of batch normalisation are trained, too."""
    padding: int
    """Width of the border of mean colour around a picture, pixels."""
    sgd: Sgd


class Fcn(Learner):
    """A network that scores the pixels of pictures of any size, and its optimiser.

    Pictures become pooled maps one by one. Maps become scores all at once: fc6 and fc7 read the
    windows of all maps as one matrix. For AlexNet and 20 pictures of VOC's sizes, forward and
    backward take 1.2 s on two cores in bfloat16. With fc6 and fc7 as convolutions they take 3.1 s
    if maps of equal size are batched, and 12 s if each map is read alone.
    """

    def __init__(
        self,
        network: Network,
        *,
        classes: int,
        transfer: Transfer,
        device: str,
        precision: Precision,
        seed: int,
    ) -> None:
        """Add a layer of scores, freeze the rest as asked, and move the network to the device.

        The layer of scores starts at 0, as in section 4.3 of the publication. All other layers keep
        their weights. Batch normalisation uses its running statistics, which never change.

        Args:
            network: modified in place.
            classes: number of classes C.
            transfer: settings of training and padding.
            device: a torch device.
            precision: number format of the forward pass. Scores, weights and updates are float32.
            seed: seed of dropout.

        Raises:
            ConfigError: the network cannot be split into convolutions and linear layers, see
                `Dense`.
        """
        self._fields = fields_of(network)
        freeze(network, transfer.part, train_batch_norm=transfer.train_batch_norm)
        head = nn.Linear(network.feature_dim, classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        to_device(network, device)
        self._network = network
        self._head = head.to(device)
        self._dense = Dense(network)
        self._padding = transfer.padding
        self._precision: Precision = precision
        convolutions = network.backbone.get_submodule("maps")
        self.maps_change = any(weight.requires_grad for weight in convolutions.parameters())
        """Whether a training step changes the maps of pictures."""
        modules = {"network": network, "fc8": head}
        super().__init__(transfer.sgd, modules, seed=seed, device=device)

    def map(self, picture_HWC: Pixels) -> Tensor:
        """Return the pooled map of a picture with its border of mean colour, on the device.

        If gradients pass through the map, intermediate results are not kept, but computed again in
        the backward pass. With VGG-16 they would fill 14 GB for 20 pictures of VOC. For AlexNet,
        this takes 15 % of a step.
        """
        image_1CHW = self._padded(picture_HWC)
        if self.maps_change and torch.is_grad_enabled():
            return _recomputed(self._map, image_1CHW)
        with torch.no_grad():
            return self._map(image_1CHW)

    def loss(self, maps: Sequence[Tensor], masks: Sequence[Mask]) -> Tensor:
        """Return the cross-entropy in nats: the mean over a picture's pixels, then over pictures.

        Caffe's accumulated gradients are those of this mean. Pixels that are VOID do not count.
        """
        sizes = [mask_HW.shape for mask_HW in masks]
        scores = self._scores(maps, sizes)
        losses: list[Tensor] = []
        for score_CHW, mask_HW in zip(scores, masks, strict=True):
            # Masks move as bytes and become the wide integers of torch on the device.
            class_HW = torch.from_numpy(mask_HW).to(self.device).long()
            losses.append(_pixel_loss(score_CHW, class_HW))
        return torch.stack(losses).mean()

    @torch.no_grad()
    @exact_float32()
    def masks(self, pictures: Sequence[Pixels]) -> list[Mask]:
        """Return the class with the highest score for each pixel, computed without dropout."""
        maps = [self.map(picture_HWC) for picture_HWC in pictures]
        sizes = [picture_HWC.shape[:2] for picture_HWC in pictures]
        masks: list[Mask] = []
        for score_CHW in self._scores(maps, sizes):
            class_HW = score_CHW.argmax(dim=0).byte()
            masks.append(class_HW.cpu().numpy())
        return masks

    def _axes(self, size: Sequence[int]) -> tuple[Axis, Axis]:
        """Return the axes of rows and columns of a picture, given its height and width."""
        height, width = size
        rows = self._fields.axis(height, padding=self._padding)
        columns = self._fields.axis(width, padding=self._padding)
        return rows, columns

    def _padded(self, picture_HWC: Pixels) -> Tensor:
        """Return a picture (1, C, H, W), 0 to 1, with a border of the network's mean colour."""
        # Paint the border first, and then put the picture into it.
        rows, columns = self._axes(picture_HWC.shape[:2])
        image_1CHW = to_images(picture_HWC[None], self.device) / 255
        mean_C11 = self._network.mean_C11
        bottom = rows.before + rows.pixels
        right = columns.before + columns.pixels
        height = bottom + rows.after
        width = right + columns.after
        padded_1CHW = mean_C11.expand(1, -1, height, width).clone()
        padded_1CHW[..., rows.before : bottom, columns.before : right] = image_1CHW
        return padded_1CHW

    def _map(self, image_1CHW: Tensor) -> Tensor:
        with autocast(self.device, self._precision):
            return self._dense.map(image_1CHW, pooled=True)

    def _scores(self, maps: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return score_CHW of every picture's own pixels, float32."""
        # The windows of all maps become the rows of one matrix.
        side = self._dense.window
        windows: list[Tensor] = []
        with autocast(self.device, self._precision):
            for map_1Chw in maps:
                windows_1DK = functional.unfold(map_1Chw, side)
                windows.append(windows_1DK[0].T)
            windows_KD = torch.cat(windows)
            windows.clear()  # or the device would hold all windows twice
            windows_KCSS = windows_KD.unflatten(1, (-1, side, side))
            hidden_KD = self._dense.hidden(windows_KCSS)
        score_KC = self._head(hidden_KD.float())

        # Split the scores into pictures again; a picture has a score for each of its windows.
        axes = [self._axes(size) for size in sizes]
        num_windows = [rows.scores * columns.scores for rows, columns in axes]
        scores: list[Tensor] = []
        parts = score_KC.split(num_windows)
        for part_KC, (rows, columns) in zip(parts, axes, strict=True):
            scores.append(_interpolated(part_KC, rows, columns))
        return scores


def _interpolated(score_KC: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Return score_CHW of a picture's pixels from the scores of its windows, row by row."""
    score_Chw = score_KC.T.unflatten(1, (rows.scores, columns.scores))
    weight_Hh = rows.interpolation().to(score_KC.device)
    weight_Ww = columns.interpolation().to(score_KC.device)
    # Bilinear interpolation is separable: along the columns, then along the rows.
    return weight_Hh @ score_Chw @ weight_Ww.T


def _pixel_loss(score_CHW: Tensor, mask_HW: Tensor) -> Tensor:
    total = functional.cross_entropy(
        score_CHW[None],
        mask_HW[None],
        ignore_index=VOID,
        reduction="sum",
    )
    # A picture without any class has a loss of 0.
    num_pixels = (mask_HW != VOID).sum().clamp(min=1)
    return total / num_pixels


def _recomputed(function: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """Return `function(given)`; the backward pass recomputes the intermediate results."""
    output: Tensor = checkpoint(function, given, use_reentrant=False, preserve_rng_state=False)
    return output
