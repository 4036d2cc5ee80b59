"""Environment of a test run, set before any kernel starts: no progress bars, no network, the quick profile.

Loaded by `-p` in .pytest.ini; a conftest.py would not be read when only notebooks/ is tested.
"""

import os
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from hw3utils.course.profiles import PROFILE_VARIABLE
from hw3utils.progress import QUIET_VARIABLE

os.environ[QUIET_VARIABLE] = "1"
# All processes of the tests share the cores: more threads than cores slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(PROFILE_VARIABLE, "quick")


def pytest_configure(config: Any) -> None:
    """Disable the network in this process and, by PYTHONPATH, in all that it starts: see tests/offline."""
    folder = config.rootpath / "tests" / "offline"
    if folder.is_dir():
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        SourceFileLoader("hw3_offline", str(folder / "sitecustomize.py")).exec_module(ModuleType("hw3_offline"))


# `pytest -m quick`: the mathematics, for every save. Nothing else is collected then, since importing it takes longer.
QUICK = frozenset(
    f"test_{name}.py"
    for name in (
        *("schedules", "diffusion", "mixtures", "losses", "score_matching", "samplers", "inpainting", "langevin"),
        *("divergences", "flows", "numerics", "gradient_models", "networks"),
    )
)


def pytest_ignore_collect(collection_path: Path, config: Any) -> bool | None:
    """Collect only the files of the mathematics under `-m quick`."""
    if config.option.markexpr == "quick" and collection_path.is_file():
        return collection_path.name not in QUICK
    return None


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Mark the tests of the mathematics as quick."""
    for item in items:
        if item.path.name in QUICK:
            item.add_marker("quick")
