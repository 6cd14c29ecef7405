"""Hadoop's own client in C, by which pyarrow reaches an HDFS; Java does its work.

It comes with Hadoop's distribution, which is no package of any registry; its source does, in the
crate `hdfs-sys`. That is fetched by cargo and compiled once, into the cache of the tests.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.clusters.cache import build_once, cache_folder
from tests.clusters.yarn.jars import jars, java_home

# The newest of which the crate has the source; the library asks Hadoop's jars by their names.
_CRATE, _SOURCE = "0.3.1", "hdfs_3_3"
_MANIFEST = f"""\
[package]
name = "libhdfs"
version = "0.0.0"
[dependencies]
hdfs-sys = "={_CRATE}"
[lib]
path = "nothing.rs"
"""


def variables() -> dict[str, str]:
    """Return what pyarrow reads to find it, built here if need be, and what it needs of Java.

    A process starts one Java, with what they are the first time.

    Raises:
        FileNotFoundError: There is no cargo or no C compiler.
        subprocess.CalledProcessError: One of them fails; what they print is not kept from the user.
    """
    name = f"libhdfs-{_CRATE}-{_SOURCE}"
    return {
        "ARROW_LIBHDFS_DIR": str(build_once(cache_folder() / name, _build)),
        "JAVA_HOME": str(java_home()),
        "CLASSPATH": ":".join(str(jar) for jar in sorted(jars().glob("*.jar"))),
        "LIBHDFS_OPTS": "-XX:-UsePerfData --add-opens=java.base/java.lang=ALL-UNNAMED",
    }


def _build(part: Path) -> None:
    part.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Cargo.toml").write_text(_MANIFEST)
        (Path(folder) / "nothing.rs").touch()
        vendor = ["cargo", "vendor", "--quiet", "--versioned-dirs", "vendor"]
        subprocess.run(vendor, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        common = Path(folder) / "vendor" / f"hdfs-sys-{_CRATE}" / "libhdfs"
        source, java = common / _SOURCE, java_home()
        posix = source / "os" / "posix"
        headers = (common, source, source / "include", source / "os", posix,
                   f"{java}/include", f"{java}/include/linux")  # fmt: skip
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O2", "-w", "-fcommon",
             *(f"-I{folder}" for folder in headers),
             *map(str, (*source.glob("*.c"), *posix.glob("*.c"))),
             f"-L{java}/lib/server", "-ljvm", "-o", str(part / "libhdfs.so")],
            check=True,
        )  # fmt: skip
