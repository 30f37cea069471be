"""A foreign program, which knows only the files of an exported network.

It is started as `python -I -c PROGRAM FOLDER`, in a different folder. It reads `network.*` and
either the files in `pictures` or `images.npy`, float32 (N, C, S, S). It writes `found.npz` and
`about.json`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime, torch
from PIL import Image
from safetensors import safe_open
from torch.nn import functional as F

folder = Path(sys.argv[1])
texts, extra = {}, {"deepcluster.json": ""}
script = torch.jit.load(folder / "network.pt", _extra_files=extra)
texts["torchscript"] = extra["deepcluster.json"].decode()
extra = {"deepcluster.json": ""}
program = torch.export.load(folder / "network.pt2", extra_files=extra).module()
texts["torch-export"] = extra["deepcluster.json"]
session = onnxruntime.InferenceSession(folder / "network.onnx")
assert session.get_inputs()[0].shape[0] == session.get_outputs()[0].shape[0] == "N"
texts["onnx"] = session.get_modelmeta().custom_metadata_map["deepcluster"]
with safe_open(folder / "network.safetensors", "pt") as file:
    texts["safetensors"] = file.metadata()["deepcluster"]
    weights = {name: file.get_tensor(name) for name in file.keys()}
about = json.loads(texts["onnx"])


def preprocessed(path):
    picture = Image.open(path).convert({1: "L", 3: "RGB"}[about["channels"]])
    shorter, to = min(picture.size), about["shorter_side"]
    picture = picture.resize(
        [to if side == shorter else side * to // shorter for side in picture.size],
        Image.Resampling.BILINEAR,
    )
    (width, height), size = picture.size, about["image_size"]
    side = round(min(width, height) * size / about["resize"])
    left, top = round((width - side) / 2), round((height - side) / 2)
    picture = picture.crop((left, top, left + side, top + side))
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return pixels.reshape(size, size, -1).transpose(2, 0, 1).astype(np.float32) / 255


def smallnet(images):
    mean, std = (torch.tensor(about[name])[:, None, None] for name in ("mean", "std"))
    filters = [[[1, 0, -1], [2, 0, -2], [1, 0, -1]], [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]]
    assert about["sobel"]
    grey = ((images - mean) / std).mean(dim=1, keepdim=True)
    x = F.conv2d(grey, torch.tensor(filters, dtype=torch.float32)[:, None], padding=1)
    for number in (1, 2, 3, 4):
        of = {name: weights.get(f"maps.conv{number}.{name}") for name in (
            "conv.weight", "conv.bias", "bn.running_mean", "bn.running_var", "bn.weight", "bn.bias"
        )}
        x = F.conv2d(x, of["conv.weight"], of["conv.bias"], padding=1)
        x = F.batch_norm(x, *(value for name, value in of.items() if name.startswith("bn")))
        x = F.max_pool2d(x, 2).relu()
    x = F.linear(x.flatten(1), weights["fc5.weight"], weights["fc5.bias"]).relu()
    return F.linear(x, weights["fc6.weight"], weights["fc6.bias"])


if (folder / "pictures").exists():
    images = np.stack([preprocessed(path) for path in sorted((folder / "pictures").iterdir())])
else:
    images = np.load(folder / "images.npy")
found = {}
for count in (1, 2, 5):
    some = images[:count]
    tensor = torch.from_numpy(some)
    with torch.no_grad():
        found[f"torchscript {count}"] = script(tensor).numpy()
        found[f"torch-export {count}"] = program(tensor).numpy()
        if "fc5.weight" in weights:
            found[f"safetensors {count}"] = smallnet(tensor).numpy()
    found[f"onnx {count}"] = session.run(["feature"], {"images": some})[0]
assert not {"deepcluster_core", "stages", "flows"} & set(sys.modules)
np.savez(folder / "found.npz", **found)
(folder / "about.json").write_text(json.dumps({name: json.loads(texts[name]) for name in texts}))
"""


def run_elsewhere(folder: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Return the features by `format count`, and the metadata of each format."""
    subprocess.run([sys.executable, "-I", "-c", PROGRAM, folder], cwd="/", check=True)
    with np.load(folder / "found.npz") as found:
        features = dict(found)
    return features, json.loads((folder / "about.json").read_text())
