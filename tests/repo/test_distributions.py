"""Every distribution of the workspace is whole: metadata, typing marker, README, licence, entry points."""

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for pattern in ("channels_*/pyproject.toml", "plugins/*/pyproject.toml")
    for path in ROOT.glob(pattern)
)


def project(member: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / member / "pyproject.toml").read_text())
    return table


def root_project() -> dict[str, Any]:
    return project(".")


def package_of(member: str) -> str:
    name: str = project(member)["project"]["name"]
    # What old applications import is called "channels"; the distribution of that name is another project's.
    return "channels" if name == "channels-compat" else name.replace("-", "_")


def test_the_workspace_has_the_six_distributions_of_the_embedded_system() -> None:
    assert {project(member)["project"]["name"] for member in MEMBERS} >= {
        "channels-core",
        "channels-django",
        "channels-layer-memory",
        "channels-origin-allowed-hosts",
        "channels-router-regex",
        "channels-session-django",
    }


@pytest.mark.parametrize("member", MEMBERS)
def test_folder_distribution_and_import_package_share_one_name(member: str) -> None:
    name = project(member)["project"]["name"]
    assert Path(member).name.replace("_", "-") == name
    assert [path.name for path in (ROOT / member / "src").iterdir() if not path.name.startswith(".")] == [
        package_of(member)
    ]


@pytest.mark.parametrize("member", MEMBERS)
def test_a_distribution_has_readme_licence_and_typing_marker(member: str) -> None:
    table = project(member)["project"]
    readme = (ROOT / member / "README.md").read_text()
    assert readme.startswith(f"# {table['name']}\n")
    assert f"pip install {table['name']}" in readme
    assert table["readme"] == "README.md"
    assert table["license"] == "BSD-3-Clause"
    assert table["license-files"] == ["LICENSE"]
    assert (ROOT / member / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (ROOT / member / "src" / package_of(member) / "py.typed").read_bytes() == b""


@pytest.mark.parametrize("member", MEMBERS)
def test_a_distribution_is_built_by_hatchling_from_src_for_python_3_11_on(member: str) -> None:
    table = project(member)
    assert table["build-system"]["build-backend"] == "hatchling.build"
    assert table["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [f"src/{package_of(member)}"]
    assert table["project"]["requires-python"] == ">=3.11"
    assert table["project"]["version"] == root_project()["project"]["version"]


@pytest.mark.parametrize("member", MEMBERS)
def test_the_installed_metadata_is_that_of_the_checkout(member: str) -> None:
    table = project(member)["project"]
    installed = metadata.distribution(table["name"])
    assert installed.version == table["version"], "run `make venv`: the installed metadata is older"
    declared = {
        (group, name, value)
        for group, entries in table.get("entry-points", {}).items()
        for name, value in entries.items()
    }
    declared |= {("console_scripts", name, value) for name, value in table.get("scripts", {}).items()}
    assert {(entry.group, entry.name, entry.value) for entry in installed.entry_points} == declared


def is_django_app(member: str) -> bool:
    """Whether a plugin stands on the Django integration: such a one is listed in INSTALLED_APPS, and hooks nothing."""
    requirements = map(Requirement, project(member)["project"]["dependencies"])
    return member.startswith("plugins/") and "channels-django" in {one.name for one in requirements}


@pytest.mark.parametrize("member", [member for member in MEMBERS if member.startswith("plugins/")])
def test_a_plugin_registers_itself_under_the_entry_point_group_or_is_a_django_app(member: str) -> None:
    package = package_of(member)
    if is_django_app(member):
        assert "entry-points" not in project(member)["project"]
        return
    entries = project(member)["project"]["entry-points"]["channels_core"]
    assert list(entries.values()) == [f"{package}.plugin"]


def test_members_of_the_workspace_pin_each_other_to_the_same_minor_version() -> None:
    names = {project(member)["project"]["name"] for member in MEMBERS}
    requirements = {
        (member, requirement.name, str(requirement.specifier))
        for member in MEMBERS
        for requirement in map(Requirement, project(member)["project"]["dependencies"])
        if requirement.name in names
    }
    assert requirements
    assert {specifier for _, _, specifier in requirements} == {"<0.2,>=0.1"}


def test_the_root_lists_every_member_everywhere_it_has_to() -> None:
    root = root_project()
    names = {project(member)["project"]["name"] for member in MEMBERS}
    packages = {package_of(member) for member in MEMBERS}
    assert root["tool"]["uv"]["package"] is False
    assert "build-system" not in root
    assert set(root["project"]["dependencies"]) == names
    assert set(root["tool"]["uv"]["sources"]) == names
    assert set(root["tool"]["importlinter"]["root_packages"]) == packages
    assert set(root["tool"]["coverage"]["run"]["source_pkgs"]) == packages
    assert {path for path in root["tool"]["mypy"]["mypy_path"] if path.endswith("/src")} == {
        f"{member}/src" for member in MEMBERS
    }


def test_every_package_has_its_place_in_the_layers_and_no_contract_has_exceptions() -> None:
    root = root_project()
    contracts = root["tool"]["importlinter"]["contracts"]
    (layers,) = [contract for contract in contracts if contract["id"] == "distributions"]
    placed = {name.strip() for layer in layers["layers"] for name in layer.split("|")}
    assert placed == {package_of(member) for member in MEMBERS}
    assert [contract["id"] for contract in contracts if "ignore_imports" in contract] == []
