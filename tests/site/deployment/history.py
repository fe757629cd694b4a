"""The code as it was before: unpacked from the history, to be run beside today's."""

import io
import subprocess
import tarfile
from pathlib import Path

from deployment.fleet import ROOT

__all__ = ["NoHistory", "unpack_previous_code"]

SOURCES = ("channels_core/src", "channels_django/src", "plugins")
FAR_ENOUGH = 200
"""Commits to look back for one that differs."""


class NoHistory(Exception):
    """There is no earlier code here, for the reason that is given."""


def unpack_previous_code(folder: Path) -> str:
    """Put the newest commit's sources that differ from today's into ``folder``; returns the commit.

    Today's are those of the working tree: before a commit it is compared with the last one, and after it with the one
    before. Raises :class:`NoHistory` where there is no git, or nothing but the last commit (a shallow clone).
    """
    try:
        commits = _git("rev-list", "--first-parent", f"--max-count={FAR_ENOUGH}", "HEAD").decode().split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoHistory(f"this is no git checkout ({error})") from error
    for commit in commits:
        if _differs(commit):
            break
    else:
        raise NoHistory(
            f"the sources are the same in all of the {len(commits)} commits that this clone has; clone it deeper"
        )
    archive = _git("archive", "--format=tar", commit, *SOURCES)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return commit


def _differs(commit: str) -> bool:
    command = ["git", "diff", "--quiet", commit, "--", *(f":(glob){source}/**/*.py" for source in SOURCES)]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode == 1


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, timeout=60).stdout
