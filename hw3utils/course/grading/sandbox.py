"""A sandbox for students' code, by bubblewrap."""

import shutil
import subprocess
import sys
from pathlib import Path

# Bytes of memory of a student's process.
MEMORY = 8 * 2**30
# Bytes of a file that it writes.
LARGEST_FILE = 2**30
# Processes and threads in a sandbox. Outside of one, the limit would count all processes of the user.
PROCESSES = 512


def sandbox_command() -> list[str]:
    """The words before a command that remove network, other processes and writing; folders are appended.

    Raises:
        ValueError: when bubblewrap is not installed, or may not create a sandbox on this machine.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise ValueError("--sandbox needs bubblewrap, which is not installed; install it, or grade in a container.")
    # Installed packages may lie in several folders; the repository, with the solutions, is none of them.
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    readable = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/opt", sys.prefix, sys.base_prefix, *packages]
    places = [word for path in dict.fromkeys(readable) if Path(path).exists() for word in ("--ro-bind", path, path)]
    # The empty /tmp comes first: it would hide an environment that is installed there.
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev", "--tmpfs"]
    options += ["/tmp", *places]
    # Its parent has another number in the sandbox: a kernel that watches for it would end.
    command = [program, *options, "--unsetenv", "JPY_PARENT_PID"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        reason = " ".join(tried.stderr.split())[:200]
        raise ValueError(f"--sandbox cannot make a sandbox on this machine ({reason}); grade in a container.")
    return command


def sandbox_folders(folder: Path, package: Path) -> list[str]:
    """The folders in a sandbox: the submission's own, writable, and its copy of the package, read-only."""
    return ["--bind", str(folder), str(folder), "--ro-bind", str(package), str(package), "--chdir", str(folder), "--"]
