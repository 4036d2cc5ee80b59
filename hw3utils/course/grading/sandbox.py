"""A sandbox for students' code, by bubblewrap where it is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

# What a notebook's process may have, in bytes.
MEMORY = 8 * 2**30
# What a file that it writes may have.
LARGEST_FILE = 2**30
# Processes and threads that a sandbox may hold. A namespace of its own counts them; elsewhere all of the user's count.
PROCESSES = 512


def sandbox_command() -> list[str]:
    """The words before a command that take network, neighbours and all writing from it; folders are added behind.

    Raises:
        ValueError: when bubblewrap is not installed, or may not make a sandbox on this machine.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise ValueError("--sandbox needs bubblewrap, which is not installed; install it, or grade in a container.")
    shown = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/opt", sys.prefix, sys.base_prefix]
    places = [word for path in dict.fromkeys(shown) if Path(path).exists() for word in ("--ro-bind", path, path)]
    alone = [
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        # Its parent there is no process that Jupyter knows: a kernel told to watch for it would take it for gone.
        "--unsetenv",
        "JPY_PARENT_PID",
    ]
    tried = subprocess.run([program, *places, *alone, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        said = " ".join(tried.stderr.split())[:200]
        raise ValueError(f"--sandbox cannot make a sandbox on this machine ({said}); grade in a container.")
    return [program, *places, *alone]


def sandbox_folders(folder: Path, package: Path) -> list[str]:
    """What a sandbox shows of the submission: its own folder to write in, its copy of the package to read."""
    return ["--bind", str(folder), str(folder), "--ro-bind", str(package), str(package), "--chdir", str(folder), "--"]
