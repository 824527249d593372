"""One file, one method, one equation. To add a method, add a file of its name; nothing else changes.

Names and docstrings are read from the files themselves, so that help needs neither torch nor an import.
"""

import ast
import importlib
import pkgutil

from sparring.core.errors import SettingError, did_you_mean
from sparring.core.registry import METHODS, RECIPES, SELECTIONS, Recipe, Selection


def names() -> list[str]:
    """List every method, recipe and selection, in alphabetical order, without importing any."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def docstring(name: str) -> str:
    """Read what a method, recipe or selection says about itself, without importing it; its first line is a summary."""
    source = pkgutil.get_data(__name__, f"{_known(name)}.py")
    assert source is not None, f"{name}.py was listed but cannot be read"
    return ast.get_docstring(ast.parse(source)) or ""


def get(name: str) -> type:
    """Find the method called `name`.

    Raises SettingError for a wrong name, with the nearest right ones, and for a recipe or a
    selection, which is no equation of its own.
    """
    found = find(name)
    if isinstance(found, Recipe | Selection):
        what, policies = type(found).__name__.lower(), ", ".join(found.policies)
        raise SettingError(f"{name} is a {what}, not one equation: take the equation of its policy ({policies})")
    return found


def find(name: str) -> type | Recipe | Selection:
    """Find what is called `name`: a method, a recipe or a selection. Raises SettingError with the nearest names."""
    importlib.import_module(f"{__name__}.{_known(name)}")
    return METHODS.get(name) or RECIPES.get(name) or SELECTIONS[name]


def load_all() -> dict[str, type]:
    """Import every file of this folder, and list the methods by name."""
    for name in names():
        importlib.import_module(f"{__name__}.{name}")
    return {name: METHODS[name] for name in names() if name in METHODS}


def _known(name: str) -> str:
    if name not in names():
        raise SettingError(f"no method is called {name!r}; {did_you_mean(name, names())}")
    return name
