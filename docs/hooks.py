"""What `mkdocs build` calls: reference tables are made from the code in place of their markers."""

import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # mkdocs loads this file by its path
    sys.path.insert(0, str(ROOT))

from deepcluster_core.config import keys_of  # noqa: E402
from flows.cli.main import app  # noqa: E402
from stages.runs.evaluations import EVALUATIONS  # noqa: E402
from stages.runs.recipe import Recipe  # noqa: E402

MARKER = re.compile(r"<!-- generated: (\w+) -->")
HEAD = "| key | type | default | what |\n|---|---|---|---|\n"
Schema = Mapping[str, Any]
WORDS = {"null": "`null`", "boolean": "true or false", "string": "text", "object": "mapping"}
"""What people call the types of JSON schemas; the others keep their names."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the markers of a page, for mkdocs."""
    return MARKER.sub(lambda found: GENERATED[found[1]](), markdown)


def recipe_reference() -> str:
    """Return a table for the keys of the recipe itself, and one for each of its sections."""
    sections = {
        name: model
        for name, field in Recipe.model_fields.items()
        if (model := _model_of(field)) is not None
    }
    parts = [f"## The recipe\n\n{_table(Recipe, skip=set(sections))}"]
    for name, model in sections.items():
        parts.append(
            f"## `{name}`\n\n{inspect.getdoc(model)}\n\n{_table(model, prefix=f'{name}.')}"
        )
        parts += _mentioned(model)
    return "\n\n".join(parts)


def protocol_reference() -> str:
    """Return a table for each evaluation, with the values of its protocol file as defaults."""
    parts: list[str] = []
    for name, evaluation in EVALUATIONS.items():
        parts.append(f"### `{name}`")
        if name != evaluation.stage.name:
            parts.append(f"The keys of `{evaluation.stage.name}`, with other values.")
            continue
        model = evaluation.protocol
        protocol = ROOT / "configs/evaluations" / f"{name}.yaml"
        values = yaml.safe_load(protocol.read_text(encoding="utf-8")) or {}
        parts.append(f"{model.__doc__}\n\n{_table(model, values=values)}")
    return "\n\n".join(parts)


def evaluation_reference() -> str:
    """Return a table of all evaluations, each with the sentence that its module declares."""
    rows = [f"| `{name}` | {one.describe(name)} |" for name, one in EVALUATIONS.items()]
    return "\n".join(["| evaluation | what it measures |", "|---|---|", *rows])


def command_reference() -> str:
    """Return the usage, help and options of every command."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    commands = {name: one for name, one in group.commands.items() if isinstance(one, TyperCommand)}
    return "\n\n".join(_command(name, command) for name, command in sorted(commands.items()))


GENERATED: dict[str, Callable[[], str]] = {
    "evaluations": evaluation_reference,
    "recipe": recipe_reference,
    "protocols": protocol_reference,
    "commands": command_reference,
}


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model that is the type of a field, if it is one."""
    kind = field.annotation
    return kind if inspect.isclass(kind) and issubclass(kind, BaseModel) else None


def _models_within(kind: object) -> Iterator[type[BaseModel]]:
    """Yield the models in a type, such as that of a section that can be None, or of a list."""
    for part in typing.get_args(kind):
        if inspect.isclass(part) and issubclass(part, BaseModel):
            yield part
        else:
            yield from _models_within(part)


def _table(
    model: type[BaseModel],
    *,
    prefix: str = "",
    skip: set[str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> str:
    """Return a Markdown table of a model's keys, those of models within it included."""
    rows = "".join(_rows(model, prefix, skip or set(), values))
    return f"{HEAD}{rows}" if rows else "It has no keys."


def _rows(
    model: type[BaseModel], prefix: str, skip: set[str], values: Mapping[str, Any] | None
) -> Iterator[str]:
    schema = model.model_json_schema()
    for name, field in keys_of(model).items():
        if name in skip:
            continue
        if (inner := _model_of(field)) is not None:
            yield from _rows(inner, f"{prefix}{name}.", set(), None)
            continue
        default = _default(model, name, field) if values is None else _literal(values.get(name))
        kind = _kind(schema["properties"][name], schema.get("$defs", {}))
        cells = (f"`{prefix}{name}`", kind, default, _one_line(field.description or ""))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
        for inner in _models_within(field.annotation):
            yield from _rows(inner, f"{prefix}{name}.", set(), None)


def _default(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.is_required():
        return ""
    if field.default_factory is None:
        return _literal(field.default)
    return _literal(getattr(model(), name))  # it depends on the other keys


def _literal(value: object) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, float):
        return f"`{value:.6g}`"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def _kind(schema: Schema, models: Mapping[str, Schema]) -> str:
    """Return the type that a JSON schema describes, in words."""
    if "$ref" in schema:
        return _kind(models[schema["$ref"].rpartition("/")[2]], models)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one, models) for one in schema["anyOf"]))
    if choices := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{value}`" for value in choices)
    if schema.get("type") == "array":
        return _list_kind(schema, models)
    kind: str = schema.get("format") or schema.get("type") or "any value"
    return WORDS.get(kind, kind) + _bounds(schema)


def _list_kind(schema: Schema, models: Mapping[str, Schema]) -> str:
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {_kind(schema['prefixItems'][0], models)}"
    return f"list of {_kind(schema['items'], models)}"


def _bounds(schema: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {_number(schema[name])}" for name, sign in signs.items() if name in schema]
    return f" {', '.join(found)}" if found else ""


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _mentioned(model: type[BaseModel]) -> Iterator[str]:
    """Yield the docstrings of classes that the descriptions of a model's keys refer to."""
    module = inspect.getmodule(model)
    texts = " ".join(field.description or "" for field in model.model_fields.values())
    for name in dict.fromkeys(re.findall(r"see `(\w+)`", texts)):
        documented = getattr(module, name)
        yield f"### {name}\n\n{inspect.cleandoc(documented.__doc__)}"


def _command(name: str, command: TyperCommand) -> str:
    arguments = [one for one in command.params if isinstance(one, TyperArgument)]
    options = [one for one in command.params if isinstance(one, TyperOption)]
    usage = " ".join(["deepcluster", name, *map(_written, arguments), "[OPTIONS]"])
    rows = [(_argument(one), one.help) for one in arguments]
    rows += [(f"{', '.join(one.opts)} {one.metavar or ''}".strip(), one.help) for one in options]
    table = "".join(f"| `{left}` | {_one_line(right or '')} |\n" for left, right in rows)
    examples = (command.epilog or "").split("\n\n")[1:]
    shown = "".join(f"    {line}\n" for line in examples)
    return (
        f"## {name}\n\n{command.help}\n\n`{usage}`\n\n{shown}\n"
        f"| option | what |\n|---|---|\n{table}"
    )


def _written(argument: TyperArgument) -> str:
    """Return an argument as a usage line has it: in brackets if it may be left out."""
    name = _argument(argument)
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _argument(argument: TyperArgument) -> str:
    return argument.metavar or (argument.name or "").upper()


def _one_line(text: str) -> str:
    return " ".join(text.split())
