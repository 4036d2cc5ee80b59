"""A JupyterLab server for the tests that open it in a real browser."""

import contextlib
import os
import re
import shutil
import subprocess
import sys

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    *("--no-browser", "--port=0", "--allow-root", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=1"),
    *("--expose-app-in-browser", "--LabApp.news_url="),
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
)


@contextlib.contextmanager
def jupyter_lab(folder):
    """A server in a folder, with settings of its own; its address."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HW3_QUIET", "HW3_FIGURES")}
    environment |= {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_DATA_DIR": str(folder / "data")}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *OPTIONS], cwd=folder, stdout=log, stderr=log, env=environment
        )
        try:
            for _ in range(120):
                found = re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/lab", (folder / "log").read_text())
                if found or server.poll() is not None:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(0.5)
            assert found, (folder / "log").read_text()[-2000:]
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            server.terminate()
            server.wait(20)
