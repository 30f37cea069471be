"""What a run needs, beside what it takes and what is there."""

from pathlib import Path

import pytest

from deepcluster_core.artifacts.remote.opening import open_mirror
from deepcluster_core.data.augment_config import ViewsConfig
from deepcluster_core.errors import ConfigError
from deepcluster_core.training.config import PrototypesConfig
from stages.runs.estimate import GIB, Needs, needs_of
from stages.runs.folder import RunFolder
from stages.runs.recipe import Recipe, load_recipe
from stages.runs.resources import (
    MachineUse,
    check_fits_machine,
    disk_needed,
    needed_at_once,
)
from tests.support.run_files import manifests

ALEXNET = Path(__file__).parents[2] / "configs" / "imagenet-alexnet.yaml"


def test_needs_of__disk_is_near_what_a_run_takes(finished_run: Path) -> None:
    needs = needs_of(load_recipe(finished_run / "config.yaml"), num_images=240, device="cpu")

    for kind, needed in needs.disk.items():
        taken = sum(
            made.bytes for name, made in manifests(finished_run).items() if name.startswith(kind)
        )
        assert 0.5 * taken < needed < 4 * taken, kind


def test_needs_of__grey_images_of_imagenet() -> None:
    def gigabytes(**dataset: object) -> float:
        changes = {"dataset": {"source": "nowhere", **dataset}}
        recipe = load_recipe(ALEXNET, changes)
        return needs_of(recipe, num_images=1_281_167, device="cpu").disk["images"] / 1e9

    pixels, copies = gigabytes(encoding="grey", colour_copies=False), gigabytes(encoding="jpeg")
    assert round(pixels) == 112
    assert gigabytes(encoding="raw") == pytest.approx(3 * pixels, rel=0.001)
    assert gigabytes(encoding="grey") == pytest.approx(pixels + copies, rel=0.001)


def test_needs_of__memory_of_the_papers_network() -> None:
    """Training AlexNet in batches of 256 was measured to take 4.0 GiB in all on a CPU."""
    small = {"cluster": {"k": 100}, "dataset": {"source": "nowhere"}}
    recipe = load_recipe(ALEXNET, small)

    assert 4 * GIB < needs_of(recipe, num_images=10_000, device="cpu").memory < 8 * GIB
    on_gpu = needs_of(recipe, num_images=10_000, device="cuda")
    assert on_gpu.memory < 3 * GIB
    assert 3 * GIB < on_gpu.device < 8 * GIB


def test_disk_needed__is_less_by_what_is_there(finished_run: Path, tmp_path: Path) -> None:
    recipe = load_recipe(finished_run / "config.yaml")

    def needed(run: Path, recipe: Recipe) -> int:
        needs = needs_of(recipe, num_images=240, device="cpu")
        return disk_needed(RunFolder(run), run / "images", needs)

    whole = needed(tmp_path / "none", recipe)
    assert needed(finished_run, recipe) < whole / 5
    more = recipe.model_copy(update={"epochs": 6})
    assert needed(finished_run, more) > whole / 3


def test_refuse_what_cannot_fit__names_what_is_too_little(
    finished_run: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(finished_run / "config.yaml")
    needs = needs_of(recipe, num_images=10**11, device="cpu")

    def check(*, anyway: bool) -> str:
        folder, use = RunFolder(tmp_path / "huge"), MachineUse("cpu")
        images = folder.images(None)
        return check_fits_machine(folder, images, needs, recipe.compute, use=use, anyway=anyway)

    with pytest.raises(ConfigError) as refused:
        check(anyway=False)

    said = str(refused.value)
    assert "Too little: disk, memory" in said
    assert "cluster.max_points_per_centroid" in said
    assert "--yes" in said
    assert check(anyway=True).startswith("needs about ")


def test_needs_of__clustering_counts_on_a_gpu() -> None:
    """Arithmetic: faiss takes 1.5 GiB beside its index, and the network here is small."""
    small = {
        "cluster": {"k": 100, "algorithm": "kmeans"},
        "dataset": {"source": "nowhere"},
        "network": {"name": "smallnet", "image_size": 32},
        "train": {"batch_size": 2},
    }
    needs = needs_of(load_recipe(ALEXNET, small), num_images=10_000, device="cuda:1")
    assert 1.5 * GIB < needs.device < 2 * GIB

    whole = {"cluster": {"algorithm": "pic", "k": "auto"}}
    of_pic = needs_of(load_recipe(ALEXNET, small | whole), num_images=10_000_000, device="cuda")
    assert of_pic.device > 10_000_000 * 4 * 256, "all rows lie in the index"


def test_needs_of__projection_of_wide_features_counts_on_a_gpu() -> None:
    """Arithmetic: the PCA holds six matrices of 4,096 x 4,096 in float64, 0.75 GiB, and a unit."""
    untrained = {"dataset": {"source": "nowhere"}, "epochs": 0, "cluster": {"k": 100}}

    needs = needs_of(load_recipe(ALEXNET, untrained), num_images=1_000_000, device="cuda:1")

    assert 1 * GIB < needs.device < 2.5 * GIB


def test_needs_of__reduced_features_of_many_images_lie_in_scratch_files() -> None:
    """Arithmetic: 256 values of 4 bytes an image, in memory up to 256 MiB, or for `pic`."""
    recipe = load_recipe(ALEXNET, {"dataset": {"source": "nowhere"}})
    small = needs_of(recipe, num_images=200_000, device="cuda")
    large = needs_of(recipe, num_images=10_000_000, device="cuda")
    assert small.scratch == 0
    assert large.scratch == 10_000_000 * 4 * 256
    assert large.memory < 4 * GIB

    sampled = recipe.model_copy(
        update={"cluster": recipe.cluster.model_copy(update={"max_points_per_centroid": 100})}
    )
    found = needs_of(sampled, num_images=10_000_000, device="cuda")
    assert found.scratch == recipe.cluster.k * 100 * 4 * 256

    whole = {"cluster": {"algorithm": "pic", "k": "auto"}, "dataset": {"source": "nowhere"}}
    of_pic = needs_of(load_recipe(ALEXNET, whole), num_images=10_000_000, device="cpu")
    assert of_pic.scratch == 0
    assert of_pic.memory > 10_000_000 * 4 * 256


def test_needs_of__ranks_share_images_and_batches_but_not_weights() -> None:
    recipe = load_recipe(ALEXNET)

    one = needs_of(recipe, num_images=16_000_000, device="cuda")
    four = needs_of(recipe, num_images=16_000_000, device="cuda", num_ranks=4)

    assert four.scratch * 4 == one.scratch
    assert four.memory == one.memory, "clusters of all images, which each rank reads"
    assert one.device / 4 < four.device < one.device
    assert one.disk == four.disk


V2 = {
    "network": {
        "name": "torchvision:resnet18",
        "image_size": 64,
        "sobel": False,
        "projection": {"hidden": 512, "dim": 128},
    },
    "extract": {"resize": 64, "layer": "projection"},
    "cluster": {"k": 100, "algorithm": "spherical", "pca_dim": 64},
}


def needs_with(path: Path, *, epochs: int = 10, **train: object) -> Needs:
    recipe = load_recipe(path, V2 | {"train": {"batch_size": 2048} | train, "epochs": epochs})
    return needs_of(recipe, num_images=1_000_000, device="cuda")


@pytest.fixture
def imagenet() -> Path:
    return ALEXNET


def test_needs_of__views_of_an_image_are_in_memory_together(imagenet: Path) -> None:
    one = needs_with(imagenet).device
    large = {"count": 2, "size": 64, "area": [0.3, 1]}
    small = {"count": 4, "size": 32, "area": [0.1, 0.3]}

    two = needs_with(imagenet, views=[large]).device
    six = needs_with(imagenet, views=[large, small]).device

    # The activations of a view of half the side are a quarter; 11 M weights take 0.2 GB.
    assert two - one == pytest.approx(six - two, rel=0.2)
    assert two > 1.5 * one


def test_needs_of__average_is_a_third_copy_of_the_weights(imagenet: Path) -> None:
    plain = needs_with(imagenet).disk["checkpoints"]

    assert needs_with(imagenet, average=0.99).disk["checkpoints"] == plain * 3 / 2


def test_needs_of__nothing_is_trained_without_epochs(imagenet: Path) -> None:
    needs = needs_with(imagenet, epochs=0)

    assert needs.disk["checkpoints"] == 0
    assert needs.disk["features"] == 1_000_000 * 128 * 2, "of epoch 0"
    assert needs.device < needs_with(imagenet).device


def test_needs_of__bank_is_kept_in_place_of_features(imagenet: Path) -> None:
    recipe = load_recipe(imagenet, V2 | {"train": {"batch_size": 64}, "epochs": 10})
    large = ViewsConfig(count=2, size=64, area=(0.3, 1))
    changes = {"prototypes": PrototypesConfig(bank=True), "views": (large,)}
    # Not read from text, because what else prototypes need is checked there.
    banked = recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})

    plain = needs_of(recipe, num_images=1_000_000, device="cuda")
    needs = needs_of(banked, num_images=1_000_000, device="cuda")

    bank_bytes = 1_000_000 * 2 * 128 * 2
    assert needs.disk["checkpoints"] - plain.disk["checkpoints"] == 10 * bank_bytes
    assert needs.disk["features"] == 1_000_000 * 128 * 2
    assert plain.disk["features"] == 3 * needs.disk["features"]


def test_check_fits_machine__of_a_run_on_a_store(finished_run: Path, tmp_path: Path) -> None:
    root = open_mirror(f"file://{tmp_path}/store/demo", tmp_path / "scratch", None).root
    recipe = load_recipe(finished_run / "config.yaml", {"epochs": 500})
    folder, use = RunFolder(root), MachineUse("cpu")
    images, needs = folder.images(None), needs_of(recipe, num_images=240, device="cpu")
    needed = needed_at_once(images, needs)
    assert 20 * needed < disk_needed(folder, images, needs), "old epochs can be deleted here"

    def check(scratch_bytes: int) -> str:
        compute = recipe.compute.model_copy(update={"scratch_bytes": scratch_bytes})
        return check_fits_machine(folder, images, needs, compute, use=use, anyway=False)

    assert "of compute.scratch_bytes" in check(needed)
    said = r"(?s)^file://.*/store/demo: .*Too little: compute.scratch_bytes.*\n  Fix: set"
    with pytest.raises(ConfigError, match=said):
        check(needed - 1)
