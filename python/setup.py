"""Builds the package around the shared object that `make` left in BUILD/lib (BUILD: default ../build)."""

import os
import pathlib
import re
import shutil

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
BUNDLED = "libprefix_ntk.so"


def version():
    header = (ROOT / "include/prefix_ntk/version.h").read_text()
    return re.search(r'PREFIX_NTK_VERSION "([^"]*)"', header).group(1)


# Everything generated stays in BUILD (an absolute path stays one when joined).
BUILD = ROOT / os.environ.get("BUILD", "build")
WORK = BUILD / "python"


def shared_object():
    return BUILD / "lib" / BUNDLED


class BuildWithLibrary(build_py):
    """Puts the shared object beside the modules."""

    def run(self):
        library = shared_object()
        if not library.exists():
            raise SystemExit(f"prefix_ntk: {library} is missing: run `make` at the top of the tree first")
        super().run()
        if not self.editable_mode:
            shutil.copyfile(library, pathlib.Path(self.build_lib) / "prefix_ntk" / BUNDLED)


class PlatformDistribution(Distribution):
    """A wheel of this platform, of any Python 3."""

    def has_ext_modules(self):
        return True


try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    from wheel.bdist_wheel import bdist_wheel


class PlatformWheel(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


WORK.mkdir(parents=True, exist_ok=True)
setup(
    version=version(),
    distclass=PlatformDistribution,
    options={"build": {"build_base": str(WORK)}, "egg_info": {"egg_base": str(WORK)}},
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel},
)
