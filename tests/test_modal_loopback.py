"""The Modal control plane for tests treats the real client and containers as Modal documents."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
import psutil
import pytest

from tests.modal_loopback import ControlPlane, Faults, room_problem

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(room_problem() is not None, reason=str(room_problem())),
]

APP = """
import os, sys, time
from pathlib import Path
import modal

image = modal.Image.debian_slim(python_version="3.11").env({"COLOUR": "dark blue"})
image = image.add_local_python_source("shipped").add_local_file("notes.txt", "/data/notes.txt")
app = modal.App("demo", image=image)
volume = modal.Volume.from_name("cache", create_if_missing=True)
queue = modal.Queue.from_name("events", create_if_missing=True)
MOUNTED = {"/hpo-cache": volume}


@app.function(secrets=[modal.Secret.from_name("login")])
def look():
    import shipped
    return {
        "sum": shipped.add(1, 2), "notes": Path("/data/notes.txt").read_text(),
        "colour": os.environ["COLOUR"], "user": os.environ["USER_NAME"], "here": os.getcwd(),
        "leak": sorted(set(os.environ) & {"OLDPWD", "MODAL_TOKEN_ID", "PYTEST_CURRENT_TEST"}),
    }


@app.function()
def double(value):
    return value * 2


@app.function()
def load(name):
    import importlib
    return importlib.import_module(name).__name__


@app.function(max_containers=1)
def who(seconds=0.0):
    begin = time.time()
    time.sleep(seconds)
    return os.environ["MODAL_TASK_ID"], begin, time.time()


@app.function(timeout=1)
def hang():
    time.sleep(60)


@app.function(retries=modal.Retries(max_retries=2, initial_delay=0.0))
def flaky():
    queue.put("try", partition="flaky")
    if queue.len(partition="flaky") < 3:
        raise ValueError("not yet")
    return "at last"


@app.function(volumes=MOUNTED)
def train(seconds):
    volume.reload()  # a warm container still has what it saw when it began
    seen = sorted(path.name for path in Path("/hpo-cache").iterdir())
    Path("/hpo-cache/draft").write_text("draft")
    try:
        queue.put([modal.current_function_call_id(), seen], partition="train")
        end = time.time() + seconds
        while time.time() < end:
            time.sleep(0.02)
    except BaseException as error:
        Path("/hpo-cache/farewell").write_text(type(error).__name__)
        raise
    return seen


@app.function(volumes=MOUNTED)
def steps(partition):
    # Does what it is told by messages, and answers with what it sees in the Volume.
    while (order := queue.get(partition=partition + "-order", timeout=20)) != "end":
        if order == "commit":
            volume.commit()
        elif order == "reload":
            volume.reload()
        elif order.startswith("remove "):
            os.remove("/hpo-cache/" + order.removeprefix("remove "))
        elif order.startswith("rename "):
            os.rename(*("/hpo-cache/" + name for name in order.split()[1:]))
        elif order != "look":
            place = Path("/hpo-cache") / order
            place.parent.mkdir(exist_ok=True)
            place.write_text(partition)
        seen = {
            str(path.relative_to("/hpo-cache")): path.read_text()
            for path in sorted(Path("/hpo-cache").rglob("*")) if path.is_file()
        }
        queue.put(seen, partition=partition + "-answer")
"""

CLIENT = """
import json, sys
import modal

def function(name):
    return modal.Function.from_name("demo", name)

def call(call_id):
    return modal.FunctionCall.from_id(call_id)

def queue():
    return modal.Queue.from_name("events", create_if_missing=True)

for line in sys.stdin:
    try:
        answer = {"result": eval(json.loads(line))}
    except BaseException as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
"""


class ClientError(Exception):
    """What was raised in a client."""


class Client:
    """A process with a client of its own that evaluates what it is told."""

    def __init__(self, plane: ControlPlane, directory: Path, **more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            cwd=directory,
            env={**os.environ, **plane.environment(), **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, expression: str) -> Any:
        """Return the value of an expression; raise ClientError if it raises."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(expression) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise ClientError(f"{answer['error']}: {answer['message']}")
        return answer["result"]

    def kill(self) -> None:
        """End the process as a power cut would."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a client, with an app in it."""
    place = tmp_path_factory.mktemp("client")
    (place / "app_file.py").write_text(APP)
    (place / "shipped.py").write_text("def add(a, b):\n    return a + b\n")
    (place / "left_behind.py").write_text("")
    (place / "notes.txt").write_text("notes")
    return place


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, directory: Path) -> Iterator[ControlPlane]:
    """Yield a plane with the app deployed."""
    secrets = {"login": {"USER_NAME": "ada"}}
    with ControlPlane(tmp_path_factory.mktemp("plane"), secrets=secrets) as plane:
        deploy(plane, directory)
        yield plane


@pytest.fixture
def plane(served: ControlPlane) -> Iterator[ControlPlane]:
    """Yield the plane, without faults."""
    served.faults = Faults()
    yield served
    served.faults = Faults()


@pytest.fixture(scope="module")
def client(served: ControlPlane, directory: Path) -> Iterator[Client]:
    """Yield a client of the plane."""
    made = Client(served, directory)
    yield made
    made.kill()


def run(
    command: list[str], plane: ControlPlane, directory: Path
) -> subprocess.CompletedProcess[str]:
    """Run a client to its end."""
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **plane.environment()},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def deploy(plane: ControlPlane, directory: Path) -> None:
    """Deploy the app, by Modal's command line."""
    done = run([sys.executable, "-m", "modal", "deploy", "app_file.py"], plane, directory)
    assert done.returncode == 0, done.stdout + done.stderr


def record(plane: ControlPlane, call_id: str) -> Any:
    """Return what the plane says of a call."""
    return next(call for call in plane.calls() if call.id == call_id)


def begin(plane: ControlPlane, client: Client, seconds: float = 30) -> str:
    """Spawn ``train`` and wait until its code runs; return the call's id."""
    call_id: str = client.run(f"function('train').spawn({seconds}).object_id")
    began(client, call_id)
    return call_id


def began(client: Client, call_id: str) -> list[str]:
    """Wait until the code of ``train`` runs; return what it saw in its Volume."""
    got, seen = client.run("queue().get(partition='train', timeout=20)")
    assert got == call_id
    return list(seen)


def test_the_client_is_one_that_the_loopback_speaks_with() -> None:
    assert modal.__version__.split(".")[:2] == ["1", "6"], (
        f"tests/modal_loopback was written for modal 1.6.4; this is {modal.__version__}. Modal's "
        "protocol is internal: run this file, mend what fails, then name the new version here."
    )


def test_a_container_has_what_was_shipped_and_set(plane: ControlPlane, client: Client) -> None:
    assert client.run("function('look').remote()") == {
        "sum": 3,
        "notes": "notes",
        "colour": "dark blue",
        "user": "ada",
        "here": "/root",
        "leak": [],
    }
    assert any("ENV COLOUR='dark blue'" in lines for lines in plane.images().values())
    assert not plane.unimplemented


@pytest.mark.parametrize("name", ["left_behind", "hpo.worker", "objectives", "storage", "tests"])
def test_what_was_not_shipped_cannot_be_imported(client: Client, name: str) -> None:
    with pytest.raises(ClientError, match="ModuleNotFoundError"):
        client.run(f"function('load').remote({name!r})")


def test_a_call_outlives_its_client_and_answers_another(
    plane: ControlPlane, directory: Path, client: Client
) -> None:
    first = Client(plane, directory)
    call_id = first.run("function('train').spawn(0.4).object_id")
    first.kill()
    assert began(client, call_id) is not None
    with pytest.raises(ClientError, match="TimeoutError"):
        client.run(f"call({call_id!r}).get(timeout=0)")
    client.run(f"call({call_id!r}).get(timeout=20)")
    assert record(plane, call_id).status == "done"


def test_payloads_of_any_size_travel(plane: ControlPlane, client: Client) -> None:
    assert client.run("len(function('double').remote(b'x' * 3_000_000))") == 6_000_000
    assert client.run("len(function('double').spawn(b'x' * 10_000).get())") == 20_000
    assert plane.counts["BlobCreate"] >= 3


def test_maps_and_failures(plane: ControlPlane, client: Client) -> None:
    assert client.run("list(function('double').map(range(5)))") == [0, 2, 4, 6, 8]
    with pytest.raises(ClientError, match="TypeError: unsupported operand"):
        client.run("function('double').remote(None)")
    assert plane.calls()[-1].status == "failed"


def test_one_warm_container_does_one_thing_at_a_time(plane: ControlPlane, client: Client) -> None:
    runs = client.run("list(function('who').map([0.1] * 3))")
    assert len({task for task, _, _ in runs}) == 1
    spans = sorted((begin, end) for _, begin, end in runs)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    plane.scaledown_cap = 0.1
    plane.wait_for(lambda: find(plane, runs[0][0]).ended, timeout=10)
    plane.scaledown_cap = 3.0
    assert find(plane, runs[0][0]).exit_code == 0


def find(plane: ControlPlane, container_id: str) -> Any:
    """Return what the plane says of a container."""
    return next(each for each in plane.containers() if each.id == container_id)


def test_a_cancelled_call_is_interrupted(plane: ControlPlane, client: Client) -> None:
    call_id = begin(plane, client)
    client.run(f"call({call_id!r}).cancel()")
    with pytest.raises(ClientError, match="RemoteError"):
        client.run(f"call({call_id!r}).get(timeout=10)")
    assert record(plane, call_id).status == "cancelled"
    farewell = plane.volume("cache") / "farewell"
    plane.scaledown_cap = 0.1
    plane.wait_for(lambda: farewell.exists() and farewell.read_text() == "InputCancellation")
    plane.scaledown_cap = 3.0


def test_a_call_that_waits_is_cancelled_at_once(plane: ControlPlane, client: Client) -> None:
    first = client.run("function('who').spawn(0.7).object_id")
    second = client.run("function('who').spawn(0.7).object_id")
    client.run(f"call({second!r}).cancel()")
    with pytest.raises(ClientError, match="RemoteError"):
        client.run(f"call({second!r}).get(timeout=0.5)")
    assert record(plane, second).starts == 0
    client.run(f"call({first!r}).get(timeout=20)")


def test_a_call_over_its_time_limit_is_ended(plane: ControlPlane, client: Client) -> None:
    with pytest.raises(ClientError, match="FunctionTimeoutError"):
        client.run("function('hang').spawn().get(timeout=20)")
    call = plane.calls()[-1]
    assert (call.status, call.timeout) == ("failed", 1)


def test_a_function_is_retried_as_it_asks(plane: ControlPlane, client: Client) -> None:
    assert client.run("function('flaky').spawn().get(timeout=20)") == "at last"
    assert plane.calls()[-1].starts == 3


def test_a_preempted_call_starts_again_in_another_container(
    plane: ControlPlane, client: Client
) -> None:
    call_id = begin(plane, client, 1.0)
    assert plane.preempt(call_id)
    seen = began(client, call_id)
    assert "draft" in seen  # it had time to say farewell, and its Volume was committed
    assert (plane.volume("cache") / "farewell").read_text() == "KeyboardInterrupt"
    client.run(f"call({call_id!r}).get(timeout=20)")
    call = record(plane, call_id)
    assert (call.status, call.starts) == ("done", 2)
    assert not plane.preempt(call_id)
    assert sum(container.preempted for container in plane.containers()) == 1


def test_preemption_as_a_fault_strikes_once(plane: ControlPlane, client: Client) -> None:
    plane.faults = Faults(preempt_after=0.1)
    call_id = begin(plane, client, 0.4)
    client.run(f"call({call_id!r}).get(timeout=20)")
    began(client, call_id)
    assert record(plane, call_id).starts == 2


def test_a_crashed_call_starts_again_until_there_were_too_many(
    plane: ControlPlane, client: Client
) -> None:
    call_id = begin(plane, client)
    assert plane.crash(call_id)
    began(client, call_id)
    plane.faults = Faults(crash_limit=2)
    plane.crash(call_id)
    with pytest.raises(ClientError, match="InternalFailure"):
        client.run(f"call({call_id!r}).get(timeout=20)")
    call = record(plane, call_id)
    assert (call.status, call.starts) == ("failed", 2)
    assert plane.containers()[-1].exit_code == -signal.SIGKILL


def test_queues_lose_and_repeat(plane: ControlPlane, client: Client) -> None:
    client.run("queue().put_many(list(range(3)), partition='q')")
    assert client.run("queue().len(partition='q')") == 3
    plane.faults.repeat_queue_gets = 1.0
    assert client.run("queue().get_many(2, partition='q')") == [0, 1]
    plane.faults.repeat_queue_gets = 0.0
    plane.wait_for(lambda: client.run("queue().len(partition='q')") == 3)
    assert client.run("queue().get_many(9, partition='q')") == [2, 0, 1]
    plane.faults.lose_queue_puts = 1.0
    client.run("queue().put('gone', partition='q')")
    with pytest.raises(ClientError, match="Empty"):
        client.run("queue().get(partition='q', timeout=0.1)")
    with pytest.raises(ClientError, match="Full"):
        client.run("queue().put_many([0] * 5001, block=False, partition='q')")


def test_dicts_are_shared(plane: ControlPlane, client: Client, directory: Path) -> None:
    name = "modal.Dict.from_name('d', create_if_missing=True)"
    assert client.run(f"{name}.put('a', 1, skip_if_exists=True)")
    second = Client(plane, directory)
    assert not second.run(f"{name}.put('a', 2, skip_if_exists=True)")
    assert second.run(f"({name}['a'], 'b' in {name}, {name}.len(), {name}.pop('a'))") == [
        1,
        False,
        1,
        1,
    ]
    second.kill()


class Worker:
    """A call of ``steps``, told what to do one step at a time."""

    def __init__(self, client: Client, name: str, options: str = "") -> None:
        self.client = client
        self.name = name
        self.call_id = client.run(f"function('steps'){options}.spawn({name!r}).object_id")

    def do(self, order: str) -> dict[str, str]:
        """Let it do something; return what it sees in its Volume then."""
        self.client.run(f"queue().put({order!r}, partition='{self.name}-order')")
        seen = self.client.run(f"queue().get(partition='{self.name}-answer', timeout=20)")
        return {name: text for name, text in seen.items() if "/" in name}  # not those of train

    def end(self) -> None:
        """Let it return."""
        self.client.run(f"queue().put('end', partition='{self.name}-order')")


def test_volumes_show_what_was_committed(plane: ControlPlane, client: Client) -> None:
    one, two = Worker(client, "one"), Worker(client, "two")
    committed = plane.volume("cache")
    two.do("look")
    assert one.do("a/f") == {"a/f": "one"}
    assert two.do("a/g") == {"a/g": "two"}
    assert not (committed / "a").exists()
    one.do("commit")
    assert (committed / "a/f").read_text() == "one"
    assert two.do("look") == {"a/g": "two"}
    assert two.do("reload") == {"a/f": "one", "a/g": "two"}
    two.do("a/f")
    assert one.do("look") == {"a/f": "one"}
    two.do("remove a/g")
    two.do("commit")
    assert one.do("reload") == {"a/f": "two"}
    one.do("a/h")
    one.end()
    plane.scaledown_cap = 0.1
    plane.wait_for(lambda: (committed / "a/h").exists(), timeout=10)  # it has ended
    plane.scaledown_cap = 3.0
    two.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="the overlays of users cannot do it")
def test_committed_directories_can_be_renamed(plane: ControlPlane, client: Client) -> None:
    worker = Worker(client, "before", ".with_options(timeout=99)")  # in no warm container
    worker.do("old/f")
    worker.do("commit")
    plane.crash(worker.call_id)
    plane.wait_for(lambda: record(plane, worker.call_id).starts == 2, timeout=10)
    assert worker.do("rename old new")["new/f"] == "before"
    worker.do("commit")
    assert (plane.volume("cache") / "new/f").exists()
    assert not (plane.volume("cache") / "old").exists()
    worker.end()


def test_clients_read_and_write_volumes(
    plane: ControlPlane, client: Client, directory: Path
) -> None:
    volume = "modal.Volume.from_name('files', create_if_missing=True)"
    script = f"""import modal
with {volume}.batch_upload() as batch:
    batch.put_file('notes.txt', '/a/b.txt')
"""
    assert run([sys.executable, "-c", script], plane, directory).returncode == 0
    assert (plane.volume("files") / "a/b.txt").read_text() == "notes"
    assert client.run(f"[each.path for each in {volume}.iterdir('/')]") == ["a", "a/b.txt"]
    assert client.run(f"b''.join({volume}.read_file('a/b.txt')).decode()") == "notes"
    client.run(f"{volume}.remove_file('a', recursive=True)")
    assert not list(plane.volume("files").iterdir())


def test_results_expire(plane: ControlPlane, client: Client) -> None:
    call_id = client.run("function('double').spawn(1).object_id")
    assert client.run(f"call({call_id!r}).get(timeout=20)") == 2
    plane.faults = Faults(expire_results=True)
    with pytest.raises(ClientError, match="OutputExpiredError"):
        client.run(f"call({call_id!r}).get(timeout=0)")
    assert record(plane, call_id).status == "expired"
    plane.faults = Faults(unknown_calls=True)
    with pytest.raises(ClientError, match="NotFoundError"):
        client.run(f"call({call_id!r}).get(timeout=0)")


def test_clients_survive_short_outages(plane: ControlPlane, client: Client) -> None:
    plane.faults = Faults(rpc_errors={"QueuePut": 0.5}, rpc_delay=0.01)
    for _ in range(5):
        client.run("queue().put(1, partition='outage')")
    assert client.run("queue().len(partition='outage')") == 5


def test_wrong_tokens_are_refused(plane: ControlPlane, client: Client, directory: Path) -> None:
    stranger = Client(plane, directory, MODAL_TOKEN_SECRET="as-wrong")
    with pytest.raises(ClientError, match="AuthError"):
        stranger.run("modal.App.lookup('demo').app_id")
    stranger.kill()
    plane.faults = Faults(refuse_token=True)
    with pytest.raises(ClientError, match="AuthError"):
        client.run("function('double').remote(1)")


def test_what_does_not_exist_is_not_found(client: Client) -> None:
    with pytest.raises(ClientError, match=r"NotFoundError.*Secret 'nope' not found"):
        client.run("modal.Secret.from_name('nope').hydrate().object_id")
    with pytest.raises(ClientError, match=r"NotFoundError.*Lookup failed for Function 'nope'"):
        client.run("function('nope').remote()")
    with pytest.raises(ClientError, match="NotFoundError"):
        client.run("call('fc-0').get(timeout=0)")


def test_variants_and_their_price(plane: ControlPlane, client: Client) -> None:
    before = plane.bill()
    made = "function('double').with_options(gpu='H100:2', timeout=77, region='us-east')"
    assert client.run(f"{made}.spawn(2).get(timeout=20)") == 4
    call, container = plane.calls()[-1], plane.containers()[-1]
    assert (call.gpu, call.timeout, call.region) == (["H100:2"], 77, "us-east")
    assert container.gpu == "H100:2"
    assert plane.bill() - before > 2 * 0.001097 * 0.1
    plane.rates = {"gpu_h100": "0.001"}
    rates = "dict(modal.Workspace.from_context().billing.rates())"
    assert "0.001" in str(client.run(f"str({rates})"))


def test_a_second_deployment_keeps_ids_and_brings_new_code(
    plane: ControlPlane, client: Client, directory: Path
) -> None:
    look_up = "modal.Function.from_name('demo', 'double').hydrate().object_id"
    before = client.run(look_up)
    assert client.run("function('double').remote(1)") == 2
    (directory / "app_file.py").write_text(APP.replace("value * 2", "value * 3"))
    deploy(plane, directory)
    assert client.run(look_up) == before
    assert client.run("function('double').remote(1)") == 3


EPHEMERAL = """
import sys, time
import modal
app = modal.App("brief")

@app.function(serialized=True)
def wait():
    import time
    time.sleep(60)

if __name__ == "__main__":
    with app.run(detach="detach" in sys.argv):
        wait.spawn()
        time.sleep(float(sys.argv[2]))
"""


def test_an_ephemeral_app_ends_with_its_client(plane: ControlPlane, directory: Path) -> None:
    (directory / "brief.py").write_text(EPHEMERAL)
    for mode, ends in (("detach", False), ("attached", True)):
        assert run([sys.executable, "brief.py", mode, "0.5"], plane, directory).returncode == 0
        plane.wait_for(lambda ends=ends: (plane.containers()[-1].ended is not None) == ends)


def test_code_that_cannot_start_fails_its_calls(plane: ControlPlane, directory: Path) -> None:
    text = "import modal\nimport left_behind\napp = modal.App('broken')\n"
    (directory / "broken.py").write_text(
        text + "@app.function()\ndef f(): pass\n\n"
        "if __name__ == '__main__':\n    with app.run():\n        f.remote()\n"
    )
    done = run([sys.executable, "broken.py"], plane, directory)
    assert "ModuleNotFoundError: No module named 'left_behind'" in done.stderr


def test_nothing_outlives_a_plane(tmp_path: Path, directory: Path) -> None:
    with ControlPlane(tmp_path) as plane:
        (directory / "brief.py").write_text(EPHEMERAL)
        client = subprocess.Popen(
            [sys.executable, "brief.py", "attached", "60"],
            cwd=directory,
            env={**os.environ, **plane.environment()},
            stderr=subprocess.DEVNULL,
        )
        plane.wait_for(lambda: plane.calls() and plane.calls()[0].status == "running")
        client.kill()
        client.wait()
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not containers_of(os.getpid(), plane)


def containers_of(pid: int, plane: ControlPlane | None = None) -> list[psutil.Process]:
    """Return the processes of containers that a process has."""
    ours = {container.id for container in plane.containers()} if plane else None
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        if "modal._container_entrypoint" in child.cmdline() and (
            ours is None or child.environ().get("MODAL_TASK_ID") in ours
        ):
            found.append(child)
    return found


def test_containers_end_with_a_plane_that_is_killed(tmp_path: Path, directory: Path) -> None:
    (directory / "brief.py").write_text(EPHEMERAL)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.modal_loopback", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert server.stdout is not None
    exports = [server.stdout.readline().removeprefix("export ").strip() for _ in range(6)]
    client = subprocess.Popen(
        [sys.executable, "brief.py", "attached", "60"],
        cwd=directory,
        env={**os.environ, **dict(line.split("=", 1) for line in exports)},
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 20
    while not (running := containers_of(server.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    assert running
    server.kill()
    server.communicate()
    client.kill()
    client.wait()
    assert not psutil.wait_procs(running, timeout=5)[1]
