"""What makes a new image of the test cluster, and what does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cluster"))

import image

SETUP = """
[options]
install_requires =
    numpy>={numpy}
packages =
    slurmsia{more}
package_dir =
    slurmsia = slurmsia
[options.extras_require]
postgresql = psycopg
test = pytest
plot = {plot}
[options.entry_points]
console_scripts = slurmsia = slurmsia_cli.main:main
"""


def inputs(monkeypatch: pytest.MonkeyPatch, folder: Path, numpy: str = "1.26", more: str = "", plot: str = "a") -> str:
    (folder / "setup.cfg").write_text(SETUP.format(numpy=numpy, more=more, plot=plot))
    monkeypatch.setattr(image, "CHECKOUT", folder)
    return image._what_is_installed()


def test_another_dependency_makes_a_new_layer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert inputs(monkeypatch, tmp_path) != inputs(monkeypatch, tmp_path, numpy="2.0")


def test_a_new_subpackage_or_an_extra_that_is_not_installed_makes_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = inputs(monkeypatch, tmp_path)
    assert inputs(monkeypatch, tmp_path, more="\n    slurmsia.sim", plot="b") == before


def test_a_local_package_index_is_lent_with_the_files_beside_it(tmp_path: Path) -> None:
    index = tmp_path / "simple"
    index.mkdir()
    assert image._local_path(f"file://{index}") == str(tmp_path)
    assert image._local_path(str(index)) == str(index)


def test_an_index_on_the_network_is_no_path() -> None:
    assert image._local_path("https://packages.example/simple") is None


def test_a_file_of_constraints_that_pip_is_told_to_use_is_lent_to_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constraints, settings, lent = tmp_path / "constraints.txt", tmp_path / "pip.conf", tmp_path / "lent"
    constraints.write_text("numpy<3\n")
    settings.write_text(f"[global]\nconstraint = {constraints}\n")
    lent.mkdir()
    monkeypatch.setattr(image, "_pip_files", lambda: [str(settings)])
    assert f"{constraints}:{constraints}:ro" in image._pip_settings(lent)
