"""The benchmarks' own environment, ``.local/bench-venv``: what only they need (benchmarks/requirements.txt, hashes
checked) stays out of the one that the platform and its tests run in."""

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".local" / "bench-venv"
LOCK = ROOT / "benchmarks" / "requirements.txt"


def python() -> Path:
    """Its interpreter; made on first use and whenever the lock has changed."""
    interpreter, mark = HOME / "bin" / "python", HOME / ".installed"
    checksum = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not (mark.is_file() and mark.read_text() == checksum):
        print(f"Installing {LOCK.relative_to(ROOT)} into {HOME.relative_to(ROOT)} (once)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(HOME)], check=True)
        pip = [str(interpreter), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]
        with (HOME / "install.log").open("w") as log:
            command = [*pip, "--require-hashes", "--no-deps", "--requirement", str(LOCK)]
            if subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
                raise SystemExit(f"pip could not install {LOCK.relative_to(ROOT)}: see {log.name}")
        mark.write_text(checksum)
    return interpreter


def run(module: str, *arguments: str) -> None:
    """Run one of our modules there."""
    subprocess.run([str(python()), "-m", module, *arguments], cwd=ROOT, check=True)
