"""The Python environments that contestants run in, and what is known about the machine.

The project's own contestants run in the interpreter that runs the bench.  Django Channels 4 and py-spy each get a venv
under ``benchmarks/.venvs``, with Django, the server, its event loop and its protocol packages in exactly the versions
that the project's environment has, so that contestants differ in nothing else. Its layers for Redis, PostgreSQL and
SQLite are in a third one.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["BENCHMARKS", "BenchError", "channels4_python", "machine", "py_spy"]

BENCHMARKS = Path(__file__).resolve().parent
VENVS = BENCHMARKS / ".venvs"
CHANNELS4 = "channels==4.3.2"
CHANNELS4_LAYERS = (
    "channels_redis==4.3.0",
    "channels_postgres==1.1.4",
    "channels-lite[aio]==0.4.0",
    "psycopg[binary]>=3.2",
    "hiredis>=3",
)
PY_SPY = "py-spy==0.4.3"
SHARED_PACKAGES = ("django", "asgiref", "uvicorn", "uvloop", "httptools", "websockets")


class BenchError(Exception):
    """The bench cannot go on; the text says why and what to do."""


def channels4_python(*, with_layers: bool = False) -> Path:
    """The interpreter of the venv that holds Django Channels 4, made at first use; of another one with its layers."""
    requirements = [CHANNELS4, *(CHANNELS4_LAYERS if with_layers else ())]
    for package in SHARED_PACKAGES:
        try:
            requirements.append(f"{package}=={importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError as error:
            raise BenchError(
                f"{package!r} is not installed in {sys.prefix}, and every contestant is served by it. "
                "Run the bench with `make bench`, which installs the project with its server."
            ) from error
    return _environment("channels4-layers" if with_layers else "channels4", requirements) / "python"


def py_spy() -> Path:
    """The py-spy executable, installed at first use."""
    return _environment("tools", [PY_SPY]) / "py-spy"


def _environment(name: str, requirements: list[str]) -> Path:
    """The bin folder of a venv that holds exactly these requirements, built anew when they change."""
    folder = VENVS / f"{name}-{platform.python_version()}"
    stamp, wanted = folder / "requirements.txt", "\n".join(requirements) + "\n"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Installing {', '.join(requirements)} into {folder}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(
                f"pip could not install {', '.join(requirements)} into {folder}:\n{done.stderr.strip()}"
            )
        stamp.write_text(wanted)
    return folder / "bin"


def machine() -> dict[str, str]:
    """What a reader has to know about the machine before comparing figures with another one's."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in cpus if line.startswith("model name")}
    return {
        "CPUs": f"{os.cpu_count()}, {', '.join(sorted(models)) or platform.machine()}",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Load average before the run": f"{os.getloadavg()[0]:.2f}",
    }
