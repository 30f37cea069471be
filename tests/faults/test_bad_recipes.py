"""Recipes that are wrong: every problem is told at once, before anything is made."""

import subprocess
from pathlib import Path

import pytest

from tests.support.program import PROGRAM
from tests.support.recipes import write_small_recipe
from tests.support.refusals import Refused, check_message, typed

KNOWN = "unknown key; known here: "
NUMBER = "Input should be a valid number"
FINITE = "Input should be a finite number"

# Section or key of the recipe, what it is given instead, and what is said of it.
VALUES = [
    ("epochs", "many", "epochs: Input should be a valid integer (got 'many')"),
    ("epochs", "-1", "epochs: Input should be greater than or equal to 0 (got -1)"),
    ("seed", '"31"', "seed: Input should be a valid integer (got '31')"),
    ("seed", "-1", "seed: Input should be greater than or equal to 0 (got -1)"),
    ("seed", "~", "seed: Input should be a valid integer (got None)"),
    ("cluster", "{k: 1}", "cluster.k: Input should be greater than or equal to 2, or 'auto'"),
    ("cluster", "{k: 2.5}", "cluster.k: Input should be a valid integer"),
    ("cluster", "{whiten: 1}", "cluster.whiten: Input should be a valid boolean, or 'zca' (got 1)"),
    ("cluster", "{algorithm: dbscan}", "unknown algorithm 'dbscan'; known: kmeans, spherical, pic"),
    ("cluster", "[4, 4]", "cluster: Input should be an object"),
    ("train", "{lr: -0.1}", "train.lr: Input should be greater than 0 (got -0.1)"),
    ("train", "{flip: 2}", "train.flip: Input should be less than or equal to 1 (got 2)"),
    ("train", "{crop_area: [1.0, 0.5]}", "train.crop_area: the least comes first"),
    ("train", "{crop_area: [0.5]}", "train.crop_area.1: Field required"),
    ("train", "{crop_area: wide}", "train.crop_area: Input should be a list"),
    ("train", "{reassign_every: 1e300}", "train.reassign_every: Input should be less than"),
    ("train", "{batch_size: 1}", "train.batch_size: Input should be greater than or equal to 2"),
    ("compute", "{device: gpu}", "compute.device: must be auto, cpu, cuda or cuda:N; N is the num"),
    ("compute", "{device: 'cuda:x'}", "compute.device: must be auto, cpu, cuda or cuda:N; N is"),
    (
        "compute",
        "{device: mps}",
        "compute.device: must be auto, cpu, cuda or cuda:N; only NVIDIA",
    ),
    ("compute", "{workers: 1e9}", "compute.workers: Input should be a valid integer"),
    ("compute", "{workers: 1000000000}", "compute.workers: Input should be less than or equal"),
    ("keep", "3", "keep: Input should be an object (got 3)"),
    ("keep", "{features: 0}", "keep.features: Input should be greater than 0 (got 0)"),
    ("images", '""', "images: is empty; leave it out for a folder in the run"),
    (
        "dataset",
        '{source: "a\\0b"}',
        "dataset.source: contains a NUL byte, which file names cannot contain",
    ),
    ("images", '"a\\0b"', "images: contains a NUL byte, which file names cannot contain"),
    (
        "cluster",
        "{algorithm: 'python:a:b', options: {x: .nan}}",
        "cluster.options: holds NaN or inf",
    ),
    ("dataset", '{source: ""}', "dataset.source: is empty; a dot means the folder of the recipe"),
    ("dataset", "{source: SOURCE, kind: zip}", "dataset.kind: Input should be 'auto', 'folder'"),
    ("dataset", "{source: SOURCE, jpeg_quality: 10}", "greater than or equal to 50 (got 10)"),
    ("dataset", "{source: SOURCE, channels: 1000000000000}", "channels: Input should be less than"),
    ("dataset", "{}", "dataset.source: Field required"),
    (
        "network",
        "{name: alexnett, image_size: 16}",
        "unknown network 'alexnett'; known: alexnet, vgg16, smallnet",
    ),
    (
        "network",
        "{name: 'torchvision:', image_size: 16}",
        "unknown network 'torchvision:'; known: alexnet",
    ),
]
NOT_FINITE = [
    ("train", "{lr: .nan}", f"train.lr: {FINITE} (got nan)"),
    ("train", "{lr: 1e400}", f"train.lr: {FINITE} (got inf)"),
    ("train", "{momentum: .nan}", f"train.momentum: {FINITE} (got nan)"),
    ("train", "{crop_ratio: [1, .inf]}", f"train.crop_ratio.1: {FINITE} (got inf)"),
    ("compute", "{save_every_s: .inf}", f"compute.save_every_s: {FINITE} (got inf)"),
    ("dataset", "{source: SOURCE, max_skipped_fraction: .nan}", f"fraction: {FINITE} (got nan)"),
    ("network", "{image_size: 16, mean: [-.inf, 0, 0]}", f"network.mean.0: {FINITE} (got -inf)"),
    ("epochs", ".inf", "epochs: Input should be a valid integer (got inf)"),
]
UNKNOWN = [
    ("epoch", "3", f"epoch: {KNOWN}seed, epochs, images,"),
    ("keeep", "{features: 2}", f"keeep: {KNOWN}seed, epochs, images,"),
    ("train", "{learning_rate: 0.1}", f"train.learning_rate: {KNOWN}lr, momentum,"),
    ("cluster", "{k: 4, pic: {sygma: 1}}", "cluster.pic.sygma: unknown key"),
    ("3", "4", f"3: {KNOWN}seed, epochs,"),
]
CONTRADICTORY = [
    ("extract", "{resize: 8}", "extract.resize: 8 is smaller than network.image_size = 16"),
    ("cluster", "{k: 4, pca_dim: 257}", "cluster.pca_dim: 257 is more than the 256 dimensions"),
    ("cluster", "{algorithm: pic, k: 5}", "cluster.k: pic finds the number of clusters itself"),
    ("cluster", "{k: 4, options: {a: 1}}", "cluster.options: kmeans does not read it, only python"),
    ("cluster", "{algorithm: pic, warm_start: true}", "cluster.warm_start: pic does not read it"),
    (
        "dataset",
        "{source: SOURCE, channels: 5, encoding: jpeg}",
        "dataset.encoding: a jpeg holds 1 or 3 channels, not dataset.channels = 5; raw and none",
    ),
    (
        "network",
        "{name: smallnet, image_size: 16, mean: [0.5, 0.5]}",
        "network.mean: has 2 values, but the images have 1 channels",
    ),
    ("network", "{name: smallnet, image_size: 4}", "of at least 16 px"),
    (
        "network",
        "{name: 'torchvision:resnet5', image_size: 16}",
        "torchvision has no classification network 'resnet5'. Did you mean resnet50",
    ),
    ("extract", "{resize: 16, layer: conv99}", "extract.layer: layer 'conv99' is unknown. Known:"),
]


@pytest.mark.parametrize(
    ("key", "value", "told"), [*VALUES, *NOT_FINITE, *UNKNOWN, *CONTRADICTORY], ids=str
)
def test_run__refuses_a_wrong_key(
    key: str,
    value: str,
    told: str,
    refused: Refused,
    small_source: Path,
    earlier_run: Path,
    tmp_path: Path,
) -> None:
    recipe = write_small_recipe(tmp_path / "bad.yaml", small_source, **{key: value})

    message = refused(lambda: typed("run", recipe, "--run", earlier_run))

    assert message.startswith(f"deepcluster: {recipe}: 1 problem\n  ")
    assert told in message


def bomb(lines: int = 12, times: int = 9) -> str:
    """Nine aliases a line, of the line before: 9^12 values in 600 bytes."""
    aliases = (f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * times)}]" for n in range(1, lines))
    return "\n".join(["a0: &a0 [lol]", *aliases])


def merge_bomb(lines: int = 12, times: int = 9) -> str:
    """The same with keys that are merged."""
    aliases = (
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * times)}]}}" for n in range(1, lines)
    )
    return "\n".join(["a0: &a0 {lol: 1}", *aliases])


HOLD_KEYS = "must hold keys and values, not"
NO_YAML = "cannot be read as YAML: "
ANY_RECIPE = "dataset: {source: here}\ntrain: {}\n"
TEXTS = {
    "empty": (b"", f"{HOLD_KEYS} NoneType"),
    "list": (b"- a\n- b\n", f"{HOLD_KEYS} list"),
    "sentence": (b"just text", f"{HOLD_KEYS} str"),
    "bracket": (b"a: [1", f"{NO_YAML}while parsing a flow"),
    "two documents": (b"a: 1\n---\nb: 2\n", f"{NO_YAML}expected a single document"),
    "tag of Python": (
        b"a: !!python/object/apply:os.system [ls]\n",
        f"{NO_YAML}could not determine",
    ),
    "key twice": (b"seed: 1\nseed: 2\n", f"{NO_YAML}the key 'seed' is given twice"),
    "key that is a list": (b"[1, 2]: 3\n", f"{NO_YAML}while constructing a mapping"),
    "key that is a day": (
        b"!!timestamp 2024-01-31: 1\n",
        "contains a value that is not allowed in a recipe",
    ),
    "no such day": (
        b"seed: !!timestamp 2024-13-45\n",
        f"{NO_YAML}'2024-13-45' is not a valid timestamp in",
    ),
    "no such truth": (b"seed: !!bool perhaps\n", f"{NO_YAML}'perhaps' is not a valid bool in"),
    "long number": (b"seed: 1" + b"0" * 5000, f"{NO_YAML}'{'1' + '0' * 39}' is not a valid int in"),
    "aliases": (bomb().encode(), f"{NO_YAML}aliases that hold themselves, or more than 100,000"),
    "merges": (merge_bomb().encode(), f"{NO_YAML}aliases that hold themselves, or more than"),
    "alias in itself": (b"a: &a [*a]\n", f"{NO_YAML}aliases that hold themselves"),
    "brackets": (b"[" * 5000, f"{NO_YAML}too many nested brackets"),
    "large": (b"#" * 10_000_000, "is larger than 1048576 bytes, so it is not a recipe"),
    "no text": (b"\xff\xfe\0a", f"{NO_YAML}'utf-8' codec can't decode"),
    "half a character": (b'images: "\\ud800"\n', f"{NO_YAML}half a character in"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", f"{NO_YAML}'utf-8' codec can't decode"),
    "no section": (b"seed: 3\n", "2 problems\n  dataset: Field required\n  train: Field required"),
}


@pytest.mark.parametrize(("data", "told"), TEXTS.values(), ids=TEXTS)
def test_run__refuses_a_file_that_is_no_recipe(
    data: bytes, told: str, refused: Refused, earlier_run: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_bytes(data)

    message = refused(lambda: typed("run", recipe, "--run", earlier_run))

    assert message.startswith(f"deepcluster: {recipe}: {told}")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("absent.yaml",), "absent.yaml: this recipe does not exist"),
        (("FOLDER",), "Is a directory"),
        (("/dev/zero",), "/dev/zero: is larger than 1048576 bytes"),
        (("RIGHT", "--run", "FILE"), "is a file, but a run is a folder"),
        (("RIGHT", "--set", "cluster.k"), "--set cluster.k: must be key=value"),
        (("RIGHT", "--set", "=3"), "--set =3: must be key=value"),
        (("RIGHT", "--set", "cluster=["), "--set cluster=[: while parsing a flow"),
        (("RIGHT", "--set", "cluster.k=["), "--set cluster.k=[: while parsing a flow"),
        (("RIGHT", "--set", "cluster.k=many"), "cluster.k: Input should be a valid integer"),
        (("RIGHT", "--set", "cluster=5"), "cluster: Input should be an object (got 5)"),
        (("RIGHT", "--set", "cluster.k.x=5"), "cluster.k: Input should be a valid integer"),
        (("RIGHT", "--set", "train.lr=.nan"), f"train.lr: {FINITE} (got nan)"),
        (("RIGHT", "--set", "seed=2024-13-45"), "seed: Input should be a valid integer (got"),
    ],
    ids=str,
)
def test_run__refuses_wrong_arguments(
    arguments: tuple[str, ...], told: str, refused: Refused, small_source: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    right = write_small_recipe(tmp_path / "right.yaml", small_source)
    places = {"RIGHT": str(right), "FOLDER": str(tmp_path), "FILE": str(tmp_path / "file")}

    message = refused(lambda: typed("run", *(places.get(each, each) for each in arguments)))

    assert told in message


def test_run__tells_conflicts_beside_wrong_keys(
    refused: Refused, small_source: Path, earlier_run: Path, tmp_path: Path
) -> None:
    recipe = write_small_recipe(
        tmp_path / "bad.yaml",
        small_source,
        dataset="{channels: 5, encoding: png}",
        extract="{resize: 8, resise: 16}",
        cluster="{k: 0, pca_dim: 257}",
        train="{lr: fast}",
    )

    lines = refused(lambda: typed("run", recipe, "--run", earlier_run)).splitlines()

    assert lines[0].endswith("7 problems")
    told = [line.strip().partition(":")[0] for line in lines[1:-1]]
    assert sorted(told) == [
        "cluster.k",
        "cluster.pca_dim",
        "dataset.encoding",
        "dataset.source",
        "extract.resise",
        "extract.resize",
        "train.lr",
    ]


def test_run__says_nothing_of_what_stands_in_for_wrong_keys(
    refused: Refused, small_source: Path, earlier_run: Path, tmp_path: Path
) -> None:
    # 224 px, the default of the wrong image_size, would be more than resize.
    network = "{name: smallnet, image_size: small}"
    recipe = write_small_recipe(tmp_path / "bad.yaml", small_source, network=network)

    message = refused(lambda: typed("run", recipe, "--run", earlier_run))

    assert "1 problem\n  network.image_size: " in message
    assert "extract.resize" not in message


@pytest.mark.slow
def test_program__refuses_a_wrong_recipe(small_source: Path, tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path / "bad.yaml", small_source, cluster="{k: 1}", epoch="3")

    ended = subprocess.run(
        [PROGRAM, "run", recipe], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    check_message(ended.stderr)
    assert "2 problems" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"], "nothing is created"
