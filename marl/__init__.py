"""marl: train, attack, prune, deploy and rank teams of learning agents.

From an installed wheel every module lives below ``marl``. From a bare checkout the three code
folders ``agents/``, ``envs/`` and ``conf/`` stand beside ``marl/``; `_CheckoutFinder` resolves
exactly the names ``marl.agents``, ``marl.envs`` and ``marl.conf`` to them, so that the same
import works in both places.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

__version__ = "0.1.0"

_CHECKOUT = Path(__file__).resolve().parent.parent
_SIBLINGS = {f"marl.{name}": _CHECKOUT / name for name in ("agents", "envs", "conf")}


class _CheckoutFinder:
    """Meta-path finder for the three sibling folders of a checkout, and for nothing else."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        folder = _SIBLINGS.get(name)
        if folder is None or not (folder / "__init__.py").is_file():
            return None
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


# In a checkout the project file stands beside the package; an installed wheel needs no finder.
if (_CHECKOUT / "pyproject.toml").is_file() and not any(
    getattr(finder, "__name__", "") == "_CheckoutFinder" for finder in sys.meta_path
):
    sys.meta_path.insert(0, _CheckoutFinder)  # type: ignore[arg-type]
