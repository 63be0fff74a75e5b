"""Serves a control plane until Ctrl-C: ``python -m tests.modal_loopback DIRECTORY [--port N]``."""

from __future__ import annotations

import argparse
import shlex
import signal
import threading
from pathlib import Path

from tests.modal_loopback import ControlPlane


def main() -> None:
    """Print what a client's shell needs, and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.modal_loopback", description=__doc__)
    parser.add_argument("directory", type=Path, help="where Volumes, files and logs are kept")
    parser.add_argument("--port", type=int, default=0, help="where clients reach it (any free)")
    options = parser.parse_args()
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with ControlPlane(options.directory, port=options.port) as plane:
        for name, value in plane.environment().items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        done.wait()


if __name__ == "__main__":
    main()
