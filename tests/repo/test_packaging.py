"""Wheels and sdists build, and each works where only it and its declared requirements are installed."""

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for pattern in ("channels_*/pyproject.toml", "plugins/*/pyproject.toml")
    for path in ROOT.glob(pattern)
)

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(300)]

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
package = sys.argv[1]
try:
    import django
    from django.conf import settings
except ImportError:
    pass
else:
    apps = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
    if package in {"channels_django", "channels_delay", "channels_model_binding"}:
        apps = sorted({"channels_django", package}, reverse=True) + apps
    if package == "channels_layer_database":
        apps = [package, "django.contrib.admin", *apps]
    if package == "channels":
        apps = ["channels", "channels.delay", *apps]
    settings.configure(SECRET_KEY="x", INSTALLED_APPS=apps, USE_TZ=True)
    django.setup()
importlib.import_module(package)
seen = [package]
for module in pkgutil.walk_packages(sys.modules[package].__path__, package + "."):
    if ".testing" not in module.name and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        seen.append(module.name)
print(*seen)
"""


def name_of(member: str) -> str:
    return Path(member).name.replace("-", "_")


def package_of(member: str) -> str:
    """What is imported; old applications import "channels", a name whose distribution is another project's."""
    return "channels" if name_of(member) == "channels_compat" else name_of(member)


def run(*command: str | Path, cwd: Path) -> str:
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "DJANGO", "CHANNELS"))
    }
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of every member and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    for member in MEMBERS:
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT / member, cwd=folder)
    return folder


def test_every_member_builds_one_sdist_and_one_wheel(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == sorted(
        f"{name_of(member)}-0.1.0{ending}"
        for member in MEMBERS
        for ending in (".tar.gz", "-py3-none-any.whl")
    )


@pytest.mark.parametrize("member", MEMBERS)
def test_wheel_and_sdist_hold_the_same_package_and_no_tests(built: Path, member: str) -> None:
    name, package = name_of(member), package_of(member)
    with zipfile.ZipFile(built / f"{name}-0.1.0-py3-none-any.whl") as wheel:
        in_wheel = set(wheel.namelist())
    with tarfile.open(built / f"{name}-0.1.0.tar.gz") as sdist:
        in_sdist = {entry.name.removeprefix(f"{name}-0.1.0/") for entry in sdist if entry.isfile()}
    code = {path for path in in_wheel if not path.startswith(f"{name}-0.1.0.dist-info/")}
    assert f"{package}/py.typed" in code
    assert f"{name}-0.1.0.dist-info/licenses/LICENSE" in in_wheel
    assert {path.partition("/")[0] for path in code} == {package}
    assert {f"src/{path}" for path in code} <= in_sdist
    assert {"README.md", "LICENSE", "pyproject.toml"} <= in_sdist
    assert {path.partition("/")[0] for path in in_sdist} - {
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "PKG-INFO",
        ".gitignore",
    } == {"src"}


@pytest.mark.parametrize("member", MEMBERS)
def test_a_distribution_works_alone(built: Path, member: str, tmp_path: Path) -> None:
    name, package = name_of(member), package_of(member)
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    wheel = built / f"{name}-0.1.0-py3-none-any.whl"
    run(*pip, "install", "--quiet", "--no-compile", "--find-links", built, wheel, cwd=tmp_path)
    run(*pip, "check", cwd=tmp_path)
    seen = run(python, "-I", "-c", IMPORT_EVERYTHING, package, cwd=tmp_path).split()
    assert seen[0] == package
    listing = run(home / "bin" / "channels", "plugins", "--json", cwd=tmp_path)
    assert '"broken"' not in listing
    project = tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
    if "channels_core" in project.get("entry-points", {}):
        assert f'"{name.replace("_", "-")}"' in listing
