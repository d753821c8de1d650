"""``requirements/install.sh``: what a bare machine may lack is said in one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "requirements" / "install.sh"
TOOLS = ("sh", "cat", "cksum", "dirname", "grep", "head", "ls", "rm")

TOO_OLD = """#!/bin/sh
case "$1" in -V) echo "Python 3.9.2" ;; -c) [ -z "$2" ] ;; esac
"""
WITHOUT_VENV = """#!/bin/sh
case "$2" in *ensurepip*) exit 1 ;; *"%d.%d"*) echo 3.12 ;; esac
"""


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "a checkout" / "requirements"
    folder.mkdir(parents=True)
    shutil.copy(SCRIPT, folder)
    (folder / "local.txt").write_text("# nothing\n")
    return folder.parent


@pytest.fixture
def bare_path(tmp_path):
    """A PATH without any Python; more can be put there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def install(checkout, path, **variables):
    environment = {"PATH": str(path), "HOME": str(checkout), **variables}
    return subprocess.run(
        ["sh", str(checkout / "requirements" / "install.sh"), "local"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def put_program(path, name, text):
    (path / name).write_text(text)
    (path / name).chmod(0o755)


def assert_one_line(done, expected):
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr


def test_machine_without_python(checkout, bare_path):
    assert_one_line(install(checkout, bare_path), "notify: Python 3.11 or newer is needed: install one")


def test_python_that_is_too_old_is_named(checkout, bare_path):
    put_program(bare_path, "python3", TOO_OLD)
    assert_one_line(install(checkout, bare_path), "Python 3.11 or newer is needed, but python3 is Python 3.9.2")


def test_python_without_venv_names_the_package_to_install(checkout, bare_path):
    put_program(bare_path, "python3", WITHOUT_VENV)
    assert_one_line(install(checkout, bare_path), "apt-get install python3.12-venv")


def test_newer_python_beside_an_old_one_is_found(checkout, bare_path):
    put_program(bare_path, "python3", TOO_OLD)
    put_program(bare_path, "python3.12", WITHOUT_VENV)
    assert_one_line(install(checkout, bare_path), "python3.12 has no venv module")


def test_chosen_python_that_is_not_there(checkout, bare_path):
    assert_one_line(install(checkout, bare_path, PYTHON="/nowhere/python"), "PYTHON=/nowhere/python cannot be run")


def test_folder_named_venv_that_is_none_is_not_deleted(checkout, bare_path):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "mine").touch()
    assert_one_line(install(checkout, bare_path), ".venv is there but is no virtual environment")
    assert (checkout / ".venv" / "mine").exists()


def test_package_index_that_does_not_answer(checkout):
    (checkout / "requirements" / "local.txt").write_text(f"nothing-there==1.0 --hash=sha256:{'0' * 64}\n")
    index = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_CONFIG_FILE": os.devnull, "PYTHON": sys.executable}
    done = install(checkout, os.environ["PATH"], **index)
    assert_one_line(done, "the package index cannot be reached")


def test_second_run_does_nothing_and_a_changed_lock_installs_again(checkout):
    chosen = {"PYTHON": sys.executable}
    assert install(checkout, os.environ["PATH"], **chosen).stdout.startswith("Installing requirements/local.txt")
    second = install(checkout, os.environ["PATH"], **chosen)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    (checkout / "requirements" / "local.txt").write_text("# another\n")
    assert install(checkout, os.environ["PATH"], **chosen).stdout.startswith("Installing")
