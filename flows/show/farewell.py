"""What `deepcluster run` prints when it ends."""

from pathlib import Path

from deepcluster_core.text import duration, python_text
from flows.show.terminal import count_of_epochs, program_name, shell_path, short
from stages.runs.folder import RunFolder


def farewell(folder: RunFolder, *, epochs: int, features: Path, seconds: float) -> str:
    """Return the text that ends a run: what it has made, and which commands to try next.

    Args:
        folder: folder of the run.
        epochs: its number of epochs.
        features: folder of the artifact with the features that the last epoch has clustered.
        seconds: how long it took.
    """
    run = short(folder.root)
    last = max(0, epochs - 1)
    made = count_of_epochs(epochs) if epochs else "clusters of the network as it begins"
    labels = python_text(f"{run}/labels")
    metrics = python_text(f"{run}/metrics")
    array = python_text(f"{short(features)}/features.zarr")
    # In commands, the path needs the quotes of a shell.
    typed = shell_path(folder.root)
    program = program_name()
    return f"""
{run}: {made}, in {duration(seconds)}
  {run}/report.html      curves and clusters, to look at in a browser
  pd.read_parquet({labels})      the cluster of every image at every epoch
  pd.read_parquet({metrics})     the learning curve
  zarr.open_array({array})     (N, D), row i is image_id i

Next:
  {program} show {typed}
  {program} look {typed}
  {program} show {typed} --epoch {last} --cluster 0
  {program} stage cluster --run {typed} --epoch {last} --set cluster.k=50 --out runs/k50"""
