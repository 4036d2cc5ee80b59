"""What a test run sets before any kernel starts: no progress bars, no network, the quick profile if none is asked for.

Loaded by `-p hw3utils.pytest_plugin` in .pytest.ini; a conftest.py would not be read when notebooks/ is tested alone.
"""

import importlib.util
import os
from typing import Any

from hw3utils.course.profiles import PROFILE_VARIABLE
from hw3utils.progress import QUIET_VARIABLE

os.environ[QUIET_VARIABLE] = "1"
# Workers, their kernels and the processes these start share the cores: threads that wait for a core keep it busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(PROFILE_VARIABLE, "quick")


def pytest_configure(config: Any) -> None:
    """Cut this process, and by PYTHONPATH all that it starts, off from the network: see tests/offline."""
    folder = config.rootpath / "tests" / "offline"
    if folder.is_dir():
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        spec = importlib.util.spec_from_file_location("hw3_offline", folder / "sitecustomize.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
