# SPDX-License-Identifier: Apache-2.0
"""ROS interfaces (.msg, .srv) to importable Python packages, without a ROS installation.

Under colcon CMake does this. For `pip install` the same rosidl generators come from PyPI: they are
plain Python, so they are called here, and what they write is compiled into, per ROS package,

- `lib/lib<package>__rosidl_generator_c.so`: the C structs of the messages;
- `lib/lib<package>__rosidl_typesupport_fastrtps_c.so`: their serialisation for Fast DDS, the one
  middleware on PyPI;
- `lib/lib<package>__rosidl_typesupport_introspection_c.so`: from which Fast DDS makes descriptions
  for tools;
- `<package>/<package>_s__rosidl_typesupport_c`: the module that rclpy imports. It converts to and
  from Python objects, and loads the two type supports above by their names.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

TYPE_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")


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
        generated = self.generated_folder
        generate(package, generated / package.name)
        self._configure(ext, package, generated)
        structs, *type_supports, module = sources(generated / package.name)
        libraries = [self._build_library(f"{package.name}__rosidl_generator_c", structs, ext)]
        ext.libraries += libraries
        for type_support, files in zip(TYPE_SUPPORTS, type_supports, strict=True):
            self._build_library(f"{package.name}__{type_support}", files, ext)
        ext.sources = module
        super().build_extension(ext)
        self._place_python(package.name, generated / package.name)

    @property
    def generated_folder(self) -> Path:
        """Where what was generated is left, a folder per package."""
        return Path(self.build_temp) / "interfaces"

    @property
    def library_folder(self) -> Path:
        """Where the libraries for `<prefix>/lib` are left."""
        return Path(self.build_temp) / "lib"

    def _configure(self, ext: Extension, package: InterfacePackage, generated: Path) -> None:
        """Fill in what all of the package's libraries are compiled and linked with."""
        import numpy

        prefix = toolchain_prefix()
        ext.language = "c++"  # decides the linker
        ext.include_dirs = [str(generated), str(introspection_root(generated / package.name))]
        ext.include_dirs += [numpy.get_include()]
        # ROS packages keep their headers one folder deeper than others (fastcdr).
        ext.include_dirs += map(str, [prefix / "include", *sorted((prefix / "include").iterdir())])
        ext.library_dirs = [str(self.library_folder), str(prefix / "lib")]
        parts = ("rosidl_generator_c", "rosidl_generator_py", *TYPE_SUPPORTS)
        ext.libraries = [f"{name}__{part}" for name in package.depends for part in parts]
        ext.libraries += ["rosidl_runtime_c", "rcutils", "fastcdr"]
        ext.libraries += ["rosidl_typesupport_c", "rosidl_typesupport_fastrtps_cpp", *TYPE_SUPPORTS]
        # NDEBUG: as in the official packages, the generated conversions are full of assertions.
        ext.extra_compile_args = ["-O2", "-g0", "-DNDEBUG", "-w"]
        # The libraries' own dependencies have mangled names that only the loader resolves.
        ext.extra_link_args = ["-Wl,--as-needed", "-Wl,--allow-shlib-undefined"]

    def _build_library(self, name: str, files: list[str], ext: Extension) -> str:
        """Compile `files` into the library `name`; returns the name."""
        objects = self.compiler.compile(
            files,
            output_dir=self.build_temp,
            include_dirs=ext.include_dirs,
            extra_postargs=ext.extra_compile_args,
        )
        self.compiler.link_shared_object(
            objects,
            str(self.library_folder / f"lib{name}.so"),
            libraries=ext.libraries,
            library_dirs=ext.library_dirs,
            extra_postargs=ext.extra_link_args,
            target_lang=ext.language,
        )
        return name

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
    from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

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
        GenerateCTypesupport("c", typesupport_implementations=list(TYPE_SUPPORTS)),
        GeneratePython("py", typesupport_implementations=["rosidl_typesupport_c"]),
    ):
        generator.generate(package.name, interfaces, includes, output)
    # Apart, because two of its files have the name of GenerateC's.
    GenerateIntrospectionCTypesupport("introspection_c").generate(
        package.name, interfaces, includes, introspection_root(output) / package.name
    )


def introspection_root(output: Path) -> Path:
    """Include folder of what is generated for introspection of the package in folder `output`."""
    return output / "introspection"


def sources(generated: Path) -> list[list[str]]:
    """The files to compile: for the structs, for each type support, and for the Python module.

    Each group is one file that includes the others, which compiles several times faster. Only the
    descriptions stay apart: they repeat names of static variables.
    """
    descriptions = sorted(generated.glob("*/detail/*__description.c"))
    structs = sorted(set(generated.glob("*/detail/*.c")) - set(descriptions))
    introspection = sorted(introspection_root(generated).glob("*/*/detail/*.c"))
    fastrtps = sorted(generated.glob("*/detail/*.cpp"))
    python = sorted([*generated.glob("*/_*_s.c"), *generated.glob("_*_s.ep.*.c")])
    dispatch = sorted(generated.glob("*/*.cpp"))
    return [
        [_joined(generated / "structs.c", structs), *map(str, descriptions)],
        [_joined(generated / "fastrtps.cpp", fastrtps)],
        [_joined(generated / "introspection.c", introspection)],
        [_joined(generated / "python.c", python), _joined(generated / "dispatch.cpp", dispatch)],
    ]


def _joined(unit: Path, files: list[Path]) -> str:
    """Write the file `unit`, which includes `files`."""
    lines = [f'#include "{file.resolve()}"\n' for file in files]
    unit.write_text("".join(lines), encoding="utf-8")
    return str(unit)
