"""A small design of Fast R-CNN, which tests vary."""

from deepcluster_core.evaluation.voc.detection.detector import Chosen, Design
from deepcluster_core.evaluation.voc.detection.sampling import Sampling
from deepcluster_core.training.learner import Sgd

DESIGN = Design(
    part="fc6-8",
    train_batch_norm=False,
    renew=False,
    weight_std=0.01,
    box_std=0.001,
    sgd=Sgd(0.05, 0.9, 0.0005, 0.1, 1000, 10.0),
    sampling=Sampling(16, 0.25, 0.5, 0.0),
    proposing=None,
    chosen=Chosen(nms_iou=0.3, score=0.05, detections=100),
)
