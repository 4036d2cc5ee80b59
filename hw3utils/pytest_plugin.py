"""What a test run sets before any kernel starts: no progress bars, the quick profile unless another is asked for.

Loaded by `-p hw3utils.pytest_plugin` in .pytest.ini; a conftest.py would not be read when notebooks/ is tested alone.
"""

import os

from hw3utils.profiles import PROFILE_VARIABLE
from hw3utils.progress import QUIET_VARIABLE

os.environ[QUIET_VARIABLE] = "1"
os.environ.setdefault(PROFILE_VARIABLE, "quick")
