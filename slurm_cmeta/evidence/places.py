"""Where programs and libraries lie in an image's file system."""

from __future__ import annotations

PROGRAM_DIRECTORIES = (
    *("/usr/local/bin", "/opt/view/bin", "/opt/views/view/bin", "/app", "/app/bin"),
)
"""Where images have programs of their own, besides /opt/*/bin."""

LIBRARY_DIRECTORIES = (
    *("/usr/local/lib", "/usr/local/lib64", "/usr/local/cuda/lib64", "/opt/rocm/lib"),
    *("/opt/view/lib", "/opt/view/lib64", "/opt/views/view/lib", "/opt/views/view/lib64"),
)

DEFAULT_LIBRARY_DIRECTORIES = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")
"""Where loaders look by default (ld.so(8), musl ldso/dynlink.c); Debian's carry a triplet, too."""

TRIPLETS = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "ppc64le": "powerpc64le-linux-gnu",
    "riscv64": "riscv64-linux-gnu",
    "s390x": "s390x-linux-gnu",
    "x86": "i386-linux-gnu",
    "arm": "arm-linux-gnueabihf",
}

DISTRIBUTION_DIRECTORIES = (
    *("/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/", "/usr/bin/", "/usr/sbin/"),
    *("/usr/lib/", "/usr/lib32/", "/usr/lib64/", "/usr/libx32/", "/usr/libexec/", "/usr/share/"),
)
"""Where a distribution puts its own files (Filesystem Hierarchy Standard)."""

APK = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
"""apk's record, before and since the move to /usr."""
