"""The first program of a container: makes its root from a plan, then becomes the container.

It runs by path, before anything of the project can be imported, with the standard library only. It
ends with ``NO_ROOM`` if the system does not let it make mounts of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

NO_ROOM = 97

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY = 1
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise what a call into libc reported."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Call mount(2)."""
    result = libc.mount(
        source.encode(), target.encode(), kind.encode(), flags, options.encode() or None
    )
    check(result, f"cannot mount {source} on {target} ({kind or 'bind'} {options})")


def enter_namespaces() -> bool:
    """Enter a mount namespace of our own; return whether that took a user namespace."""
    if os.geteuid() == 0 and libc.unshare(CLONE_NEWNS) == 0:
        return False
    user, group = os.geteuid(), os.getegid()
    check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "cannot make namespaces (unshare)")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return True


def bind(source: str, target: Path) -> None:
    """Show the file or directory ``source`` as ``target``."""
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(source, str(target), "", MS_BIND | MS_REC)


def overlay(layer: dict[str, str | bool], root: Path, as_user: bool) -> None:
    """Mount a Volume: reads come from the lower directory, writes go to one of our own."""
    target = root / str(layer["target"]).lstrip("/")
    target.mkdir(parents=True, exist_ok=True)
    scratch = Path(str(layer["scratch"]))
    flags = MS_RDONLY if layer["read_only"] else 0
    more = ",userxattr" if as_user else ",redirect_dir=on"

    def attempt() -> None:
        upper, work = scratch / "upper", scratch / "work"
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(exist_ok=True)
        options = f"lowerdir={layer['lower']},upperdir={upper},workdir={work}{more}"
        mount("overlay", str(target), "overlay", flags, options)

    try:
        attempt()
    except OSError:
        # Some file systems cannot hold the writes (that of a Docker container); memory can.
        mount("tmpfs", str(scratch), "tmpfs")
        attempt()


def build(plan: dict) -> None:
    """Make the root that ``plan`` describes."""
    as_user = enter_namespaces()
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    root = Path(plan["root"])
    for target, text in plan["links"].items():
        (root / target.lstrip("/")).symlink_to(text)
    for source, target in plan["binds"]:
        bind(source, root / target.lstrip("/"))
    for target in plan["masks"]:
        bind(plan["empty"], root / target.lstrip("/"))
    for layer in plan["volumes"]:
        overlay(layer, root, as_user)


def main() -> None:
    """Build the root, enter it, and become the container."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    try:
        build(plan)
        os.chroot(plan["root"])
    except OSError as error:
        print(error, file=sys.stderr)
        raise SystemExit(NO_ROOM) from None
    os.chdir(plan["directory"])
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != plan["parent"]:
        raise SystemExit("the control plane is gone")
    os.execve(plan["command"][0], plan["command"], plan["environment"])


if __name__ == "__main__":
    main()
