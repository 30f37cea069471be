"""DICOM files, written by pydicom. Suffixes: H height, W width, F frames, C samples."""

import warnings
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

PATIENT = "Doe^Jane"


def dataset_of(
    stored: NDArray[Any],
    *,
    photometric: str = "MONOCHROME2",
    bits: int | None = None,
    frames: int | None = None,
    **elements: object,
) -> FileDataset:
    """Return a dataset with pixels, the name of a patient, and other elements."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid.UID("1.2.3.4")
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PatientName = PATIENT
    dataset.PhotometricInterpretation = photometric
    is_colour = photometric in ("RGB", "YBR_FULL")
    dataset.SamplesPerPixel = 3 if is_colour else 1
    planar = elements.get("PlanarConfiguration", 0)
    sides = stored.shape if frames is None else stored.shape[1:]
    if is_colour and planar == 1:
        sides = sides[1:]
    dataset.Rows, dataset.Columns = sides[:2]
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    if is_colour:
        dataset.PlanarConfiguration = 0
    if frames is not None:
        dataset.NumberOfFrames = frames
    for name, value in elements.items():
        setattr(dataset, name, value)
    data = np.ascontiguousarray(stored).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    return dataset


def bytes_of(dataset: FileDataset) -> bytes:
    """Return a dataset as a file."""
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def dicom_of(stored: NDArray[Any], **elements: Any) -> bytes:  # noqa: ANN401
    """Return a DICOM file."""
    return bytes_of(dataset_of(stored, **elements))
