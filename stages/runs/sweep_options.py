"""The varied key of a sweep and its values, as people give them."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepcluster_core.config_yaml import parse
from deepcluster_core.errors import ConfigError
from stages.runs.recipe import parse_overrides
from stages.runs.sweep_plan import K


def parse_varied(ks: str | None, over: str | None) -> tuple[str, list[Any]]:
    """Return the varied key and its values from the options `--k` and `--over`.

    Raises:
        ConfigError: both options are given, or none; or one of them cannot be parsed.
    """
    if ks is not None and over is None:
        return K, parse_ks(ks)
    if over is not None and ks is None:
        return parse_over(over)
    raise ConfigError(
        "sweep needs either --k or --over.\n"
        "  Fix: for example --k 10,100,1000, or --over train.lr=0.01,0.05."
    )


def varied(
    ks: Sequence[int] | None, over: Mapping[str, Sequence[Any]] | None
) -> tuple[str, Sequence[Any]]:
    """Return the varied key and its values from the parameters of the flow.

    Raises:
        ConfigError: both parameters are given, or none, or `over` has several keys.
    """
    if ks is not None and not over:
        return K, ks
    if ks is None and over and len(over) == 1:
        return next(iter(over.items()))
    raise ConfigError(
        "sweep needs either k or over, with one key.\n"
        '  Fix: for example over: {"train.lr": [0.01, 0.05]}'
    )


def parse_over(text: str) -> tuple[str, list[Any]]:
    """Parse `train.lr=0.01,0.05` into a key and its values, each by the type of the key.

    Values that contain commas themselves are written as one YAML list of all of them, such as
    `train.crop_area=[[0.08, 1], [0.5, 1]]`.

    Raises:
        ConfigError: the text is not of this form, or the key cannot be varied.
    """
    key, separator, listed = text.partition("=")
    key = key.strip()
    if not separator or not key:
        raise ConfigError(
            f"--over {text}: must be key=value,value.\n  Fix: for example --over train.lr=0.01,0.05"
        )
    if listed.strip().startswith("["):
        found = parse_overrides_of(key, [listed], as_yaml=True)[0]
        if not isinstance(found, list):
            raise ConfigError(f"--over {text}: must be a list.\n  Fix: [value, value]")
        return key, found
    return key, parse_overrides_of(key, listed.split(","))


def parse_overrides_of(key: str, texts: Sequence[str], *, as_yaml: bool = False) -> list[Any]:
    """Return the values of a key, given as texts; `as_yaml` reads them without the key's type."""
    values: list[Any] = []
    for text in texts:
        if as_yaml:
            try:
                values.append(parse(text))
            except ValueError as error:
                raise ConfigError(f"--over {key}: {error}") from error
            continue
        value: Any = parse_overrides([f"{key}={text.strip()}"])
        for part in key.split("."):
            value = value[part]
        values.append(value)
    return values


def parse_ks(text: str) -> list[int]:
    """Parse `10,100,1000` into numbers.

    Raises:
        ConfigError: a part of the text is not a whole number.
    """
    parts = [part.strip() for part in text.split(",")]
    # isdigit alone would accept digits such as superscripts, which int rejects.
    wrong = [part for part in parts if not (part.isascii() and part.isdigit())]
    if wrong:
        found = ", ".join(map(repr, wrong))
        problem = "is not a whole number" if len(wrong) == 1 else "are not whole numbers"
        raise ConfigError(
            f"--k {text}: {found} {problem}.\n"
            f"  Fix: give whole numbers with commas between them, for example --k 10,100,1000."
        )
    return [int(part) for part in parts]
