"""Environment of a test run, set before any kernel starts: no progress bars, no network, the quick profile.

Loaded by `-p` in .pytest.ini; a conftest.py would not be read when only notebooks/ is tested.
"""

import importlib.util
import os
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
        spec = importlib.util.spec_from_file_location("hw3_offline", folder / "sitecustomize.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
