"""Write a recipe to start from, and the schema that editors use to check and complete it."""

import json
from pathlib import Path

from deepcluster_core.config_files import CONFIGS
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import check_is_local
from stages.runs.recipe import Recipe


def write_new_recipe(name: str | Path, template: str = "own-images") -> Path:
    """Write NAME.yaml and NAME.schema.json; return the path of NAME.yaml.

    Args:
        name: path of the new recipe, with or without `.yaml`.
        template: name of the shipped recipe to copy, with its comments.

    Raises:
        ConfigError: one of them exists already, or cannot be written.
    """
    check_is_local(name)
    recipe = Path(f"{str(name).removesuffix('.yaml')}.yaml")
    schema = recipe.with_suffix(".schema.json")
    text = (CONFIGS / f"{template}.yaml").read_text(encoding="utf-8")
    # Commands in the template name the template; in the copy they name the copy.
    own_text = text.replace(f"deepcluster run configs/{template}.yaml", f"deepcluster run {recipe}")
    texts = {
        recipe: f"# yaml-language-server: $schema={schema.name}\n{own_text}",
        schema: json.dumps(Recipe.model_json_schema(), indent=2) + "\n",
    }
    existing = [str(path) for path in texts if path.exists()]
    if existing:
        raise ConfigError(f"{', '.join(existing)}: already exists.\n  Fix: choose another name.")
    try:
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise ConfigError(
            f"{recipe}: cannot be written ({error.strerror}).\n"
            f"  Fix: choose a folder that exists and that you may write to."
        ) from error
    return recipe
