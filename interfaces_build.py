# SPDX-License-Identifier: Apache-2.0
"""ROS interfaces (.msg, .srv) to importable Python packages, without a ROS installation.

Under colcon CMake does this. For `pip install` the same rosidl generators come from PyPI: they are
plain Python, so they are called here and their C and C++ is compiled as one extension module per
ROS package, `<package>/<package>_s__rosidl_typesupport_c`, the name rclpy imports.

One module is enough (the ROS build makes six libraries) because on PyPI there is exactly one
middleware, Fast DDS: with a single type support rosidl links it statically instead of loading it by
name at run time.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

TYPE_SUPPORT = "rosidl_typesupport_fastrtps_c"


@dataclass(frozen=True)
class InterfacePackage:
    """A ROS package whose interfaces are generated: `folder` holds package.xml, msg/ and srv/."""

    name: str
    folder: Path
    depends: tuple[str, ...]
    """Packages whose messages are fields of these, nested ones included."""

    @property
    def interface_files(self) -> list[Path]:
        """The .msg and .srv files, relative to `folder`."""
        found = [p for kind in ("msg", "srv") for p in self.folder.glob(f"{kind}/*.{kind}")]
        return sorted(path.relative_to(self.folder) for path in found)

    def extension(self) -> Extension:
        """The extension module to hand to setuptools; its sources appear during the build."""
        extension = Extension(f"{self.name}.{self.name}_s__rosidl_typesupport_c", sources=[])
        extension.interface_package = self
        return extension


class BuildInterfaces(build_ext):
    """`build_ext` that first generates the sources, and then also places the generated Python."""

    def build_extension(self, ext: Extension) -> None:
        """Generate, compile and place one interface package."""
        package: InterfacePackage = ext.interface_package
        generated = Path(self.build_temp) / "interfaces"
        generate(package, generated / package.name)
        _configure(ext, package, generated)
        super().build_extension(ext)
        self._place_python(package.name, generated / package.name)

    def _place_python(self, name: str, generated: Path) -> None:
        """Copy the generated modules next to where the compiled one goes."""
        if self.inplace or self.editable_mode:  # `pip install -e`: into the source tree
            target = Path(self.get_finalized_command("build_py").get_package_dir(name))
        else:
            target = Path(self.build_lib) / name
        target.mkdir(parents=True, exist_ok=True)
        (target / "__init__.py").touch()
        for kind in ("msg", "srv"):
            if (generated / kind).is_dir():
                # Start empty: a module of a removed interface must not linger.
                shutil.rmtree(target / kind, ignore_errors=True)
                (target / kind).mkdir()
                for module in (generated / kind).glob("*.py"):
                    shutil.copy(module, target / kind)


def toolchain_prefix() -> Path:
    """Prefix that the rosidl wheels are installed in.

    Not `sys.prefix`: under pip's build isolation they are in an overlay beside it.
    """
    import rosidl_parser

    return Path(rosidl_parser.__file__).resolve().parents[4]


def generate(package: InterfacePackage, output: Path) -> None:
    """Run every generator for `package`, all into the folder `output`."""
    from rosidl_adapter import convert_to_idl
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport

    prefix = toolchain_prefix()
    # The generators look up their templates in the ament index.
    os.environ["AMENT_PREFIX_PATH"] = str(prefix)
    shutil.rmtree(output, ignore_errors=True)
    interfaces = []
    for file in package.interface_files:
        convert_to_idl(package.folder.resolve(), package.name, file, output)
        interfaces.append(f"{output.resolve()}:{file.with_suffix('.idl').as_posix()}")
        shutil.copy(package.folder / file, output / file)
    # Some generators look for the packages whose folder name they find here.
    includes = [str(prefix / "share" / depends) for depends in package.depends]

    for generator in (
        GenerateC("c"),
        GenerateFastRTPSCTypesupport("fastrtps_c"),
        GenerateCTypesupport("c", typesupport_implementations=[TYPE_SUPPORT]),
        GeneratePython("py", typesupport_implementations=["rosidl_typesupport_c"]),
    ):
        generator.generate(package.name, interfaces, includes, output)


def _configure(ext: Extension, package: InterfacePackage, generated: Path) -> None:
    """Fill in sources, include folders and libraries of `ext`."""
    import numpy

    prefix = toolchain_prefix()
    ext.sources = [str(path) for path in _translation_units(generated / package.name)]
    ext.depends = [str(package.folder / file) for file in package.interface_files]
    ext.language = "c++"  # decides the linker
    ext.include_dirs = [str(generated), numpy.get_include()]
    # ROS packages keep their headers one folder deeper than others (fastcdr).
    ext.include_dirs += map(str, [prefix / "include", *sorted((prefix / "include").iterdir())])
    ext.library_dirs = [str(prefix / "lib")]
    parts = ("generator_c", "generator_py", "typesupport_c", "typesupport_fastrtps_c")
    ext.libraries = [f"{name}__rosidl_{part}" for name in package.depends for part in parts]
    ext.libraries += ["rosidl_runtime_c", "rcutils", "fastcdr"]
    ext.libraries += ["rosidl_typesupport_fastrtps_c", "rosidl_typesupport_fastrtps_cpp"]
    # NDEBUG: as in the official packages, the generated conversions are full of assertions.
    ext.extra_compile_args = ["-O2", "-g0", "-DNDEBUG", "-w"]
    # The libraries' own dependencies have mangled names that only the loader resolves.
    ext.extra_link_args = ["-Wl,--allow-shlib-undefined", "-Wl,-rpath,$ORIGIN/../../.."]


def _translation_units(generated: Path) -> list[Path]:
    """The files to compile: one that includes all others per language, for speed.

    The descriptions repeat names of static variables and stay apart.
    """
    descriptions = sorted(generated.glob("*/detail/*__description.c"))
    units = {
        "structs.c": sorted(set(generated.glob("*/detail/*.c")) - set(descriptions)),
        "python.c": sorted(generated.glob("*/_*_s.c")) + sorted(generated.glob("_*_s.ep.*.c")),
        "type_support.cpp": sorted(generated.glob("**/*.cpp")),
    }
    for unit, files in units.items():
        lines = [f'#include "{file.resolve()}"\n' for file in files]
        (generated / unit).write_text("".join(lines), encoding="utf-8")
    return [generated / unit for unit in units] + descriptions
