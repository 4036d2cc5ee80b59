"""What `import hw3utils` offers: the names, loaded lazily, with their types; and what the package declares."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hw3utils

ROOT = Path(__file__).resolve().parent.parent
FIRST = [
    *("UNet", "NoiseSchedule", "linear_schedule", "cosine_schedule", "sample_ddpm", "sample_ddim"),
    *("sample_dpm_solver", "langevin", "GaussianMixture", "load_sprites", "load_pretrained", "train", "fid"),
]


@pytest.mark.parametrize("name", FIRST)
def test_what_a_user_reaches_for_first_is_in_the_package_and_callable(name):
    assert name in dir(hw3utils)
    assert name in hw3utils.__all__
    assert callable(getattr(hw3utils, name))


def test_a_module_with_the_name_of_its_function_is_both():
    from hw3utils import langevin
    from hw3utils.langevin import langevin as function

    x = torch.zeros(4, 2, dtype=torch.float64)
    runs = [
        run(lambda x, sigma: -x, x, step_size=0.1, n_steps=3, generator=torch.Generator().manual_seed(0))
        for run in (langevin, function, hw3utils.langevin)
    ]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    assert inspect.signature(hw3utils.langevin) == inspect.signature(function)
    assert inspect.signature(hw3utils.fid) == inspect.signature(hw3utils.fid.fid)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hw3utils.no_such_name


def test_import_and_help_do_not_load_torch():
    code = (
        "import sys, hw3utils; dir(hw3utils); from hw3utils.__main__ import COMMANDS, command_parser; "
        "command_parser().format_help(); heavy = {'torch', 'numpy', 'matplotlib', 'nbformat'} & set(sys.modules); "
        "assert not heavy, heavy; print(len(COMMANDS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "11\n"


def run(*command, folder=ROOT):
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_imports_follow_the_layers():
    # --no-cache: two workers must not write one cache.
    command = "import sys; from importlinter.cli import lint_imports_command; sys.argv[1:] = ['--no-cache']; "
    done = subprocess.run(
        [sys.executable, "-c", command + "lint_imports_command()"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_typed():
    run("mypy")


def test_every_import_is_declared_and_every_dependency_is_imported():
    run("deptry", ".", folder=ROOT / "hw3utils")
