"""A Modal control plane on this machine, for tests of what runs on Modal.

The real client (modal 1.6.4) and the real entrypoint of its containers talk gRPC to it over
loopback, without an account. A container is an operating-system process in a root of its own: it
sees the interpreter and the system, the files that the app shipped, its Volumes, and nothing else
of this machine's disk, so code that was never shipped cannot be imported.

Modelled from the client's source (what it sends, and which answers it acts on) and from Modal's
documentation: apps (ephemeral, detached, deployed), functions and their variants, calls with their
inputs and outputs, retries, time limits, cancellation, preemption, crashes, Queues, Dicts, Secrets,
Volumes (a container sees what was committed when it began or last reloaded; nobody sees what it
did not commit), blobs, Images (their commands are kept, ENV, WORKDIR and COPY are obeyed, nothing
is built), the price list. Every other RPC is answered UNIMPLEMENTED and counted.

Never verified against Modal's servers:

- the wording of errors, and the status codes that the client doesn't tell apart;
- how often a crashing container is started again (``Faults.crash_limit``), and that a failing start
  fails the waiting calls of a deployed app, too (documented: it is tried for ever);
- that a call stays cancelled if its code swallows the cancellation and returns a value;
- that a swallowed preemption counts as the end of the call if a value is returned in time;
- that a container over its time limit is killed without a word;
- time: containers start in a fraction of a second (``Faults.cold_start`` slows them), idle ones end
  after at most ``ControlPlane.scaledown_cap`` seconds, an ephemeral app whose client has vanished
  stops after ``apps.LOST_SECONDS``.

As on Modal, a warm container goes on with the Volumes that it saw when it began: code that resumes
another container's work has to ``reload()`` first.

Not modelled: background commits of Volumes (here they commit at ``commit()`` and at the regular end
of a container), builds of Images, the input plane, web endpoints, schedules, sandboxes, snapshots,
regions (recorded only), GPUs (recorded and billed only), limits of memory and CPU, log streaming,
the loss of results after a week (``Faults.expire_results`` makes it happen), answers that are lost
after the work was done, ``VolumePutFiles2``, ``sub_path`` of Volumes.

Containers end when the plane does, also when it is killed; what they have started themselves ends
with them, except when the plane is killed.
"""

from tests.modal_loopback.faults import Faults
from tests.modal_loopback.ledger import RATES, CallRecord, ContainerRecord
from tests.modal_loopback.plane import ControlPlane
from tests.modal_loopback.rooms import NoRoomError, room_problem

__all__ = [
    "RATES",
    "CallRecord",
    "ContainerRecord",
    "ControlPlane",
    "Faults",
    "NoRoomError",
    "room_problem",
]
