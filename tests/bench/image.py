"""A freshly made ext4 on a sparse loop image, and processes measured on it.

Promises that the image is unmounted and removed however the program ends. Needs root.
"""

import contextlib
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


@contextlib.contextmanager
def ext4(work, gib, inodes=None):
    """Yields the mount point of a new file system below `work`."""
    if os.geteuid() != 0:
        sys.exit("this needs root: it makes and mounts a file system image")
    place = Path(tempfile.mkdtemp(prefix="ddr-bench-", dir=work))
    image, point = place / "image", place / "mnt"
    point.mkdir()
    try:
        with open(image, "wb") as file:
            file.truncate(gib << 30)
        count = ["-N", str(inodes)] if inodes else []
        # No lazy work left over: it would go on in the background of the first measurements.
        options = ["-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]
        subprocess.run(["mkfs.ext4", "-q", "-F", *options, *count, image], check=True)
        subprocess.run(["mount", "-o", "loop", image, point], check=True)
        yield point
    finally:
        if os.path.ismount(point):
            subprocess.run(["umount", point], check=False)
        if not os.path.ismount(point):
            shutil.rmtree(place)
        else:
            print(f"{point} is still in use; unmount it and remove {place}", file=sys.stderr)


def touch_free_memory(most=8 << 30):
    """Uses free memory once and gives it back, so that no measured program is the first to touch it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemFree:"):
            free = int(line.split()[1]) << 10
    size = min(most, free * 9 // 10) & ~0xFFFFF
    if size:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        mmap.mmap(-1, size, flags=flags).close()


@dataclass
class Run:
    """What one process took."""

    seconds: float
    max_rss: int
    code: int
    output: str


def run(args, cwd, env, point=None, fine=(0,)):
    """Runs a process; with `point`, the time includes `sync -f` of that file system."""
    with tempfile.TemporaryFile() as said:
        start = time.monotonic()
        process = subprocess.Popen(args, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        if point:
            subprocess.run(["sync", "-f", point], check=True)
        seconds = time.monotonic() - start
        process.returncode = code = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read().decode(errors="replace")
    if code not in fine:
        raise SystemExit(f"{' '.join(map(str, args))}: exit code {code}\n{output[-2000:]}")
    return Run(seconds, usage.ru_maxrss * 1024, code, output)


def home(path):
    """An environment in which a program finds nothing of the user's and keeps its caches here."""
    path.mkdir(parents=True, exist_ok=True)
    dirs = {f"XDG_{name}_HOME": str(path / name.lower()) for name in ("CACHE", "STATE", "CONFIG", "DATA")}
    return {"PATH": os.environ["PATH"], "HOME": str(path), "LC_ALL": "C.UTF-8", "NO_COLOR": "1", **dirs}


def find_ddr(given):
    """The program to measure; a debug build would measure the compiler."""
    path = Path(given or Path(__file__).parents[2] / "target/release/ddr").resolve()
    if not path.is_file():
        sys.exit(f"{path} is missing: run `cargo build --release`, or pass --ddr PATH")
    return path


def verdict(what, value, limit, unit=""):
    """Prints one target; whether it was met."""
    good = value <= limit
    print(f"{'PASS' if good else 'MISS'}  {what}: {value:.2f}{unit} (at most {limit:g}{unit})")
    return good
