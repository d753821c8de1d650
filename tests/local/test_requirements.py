import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parent.parent.parent / "requirements"


def locked(name: str) -> dict[str, str]:
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;]+)", text, re.MULTILINE))


@pytest.mark.parametrize(("smaller", "larger"), [("base", "local"), ("local", "dev")])
def test_larger_lock_holds_the_smaller_one_in_the_same_versions(smaller, larger):
    assert locked(smaller)
    assert locked(smaller).items() <= locked(larger).items()


@pytest.mark.parametrize("name", ["base", "local", "dev"])
def test_every_locked_package_has_a_hash_and_no_index_is_named(name):
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    packages = re.findall(r"^[a-z0-9][^\n]*(?:\n    --hash=[^\n]+)*", text, re.MULTILINE)
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in text
    assert "--index" not in text
