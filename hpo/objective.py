"""Naming an objective so that another process can find it again.

A worker gets a reference and JSON options, never a pickle. A function is named by its module; an
object with ``options()`` is rebuilt from its class. A function of the script that was started is
named by that script's file, as ``multiprocessing`` would do.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpo.errors import InputError
from hpo.protocol import ObjectiveSpec

Objective = Callable[[Any], Any]
"""What a trial runs: a function of a trial, as Optuna's objectives are. An object may offer more,
which is looked up by name; CONTRIBUTING.md lists it."""


class ObjectiveError(InputError):
    """The objective cannot be imported, built or named."""


def load_objective(spec: ObjectiveSpec) -> Objective:
    """Import what ``spec`` names, and build it if it is a class with options.

    Raises:
        ObjectiveError: No such module or attribute, an import that fails, or not callable. The
            cause is attached.
    """
    for entry in reversed(spec.path):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    module_name, _, qualified_name = spec.reference.partition(":")
    if not module_name or not qualified_name:
        raise ObjectiveError(
            f"--objective {spec.reference!r}: expected package.module:function, "
            "for example sweep:objective for the function objective in ./sweep.py."
        )
    found = _attribute(_module(module_name, spec), qualified_name, spec)
    if spec.options is not None:
        found = found(**spec.options)
    if not callable(found):
        raise ObjectiveError(
            f"--objective {spec.reference!r} is a {type(found).__name__}, which cannot be called; "
            "it must be a function (or a callable object) that takes a trial."
        )
    return found  # type: ignore[no-any-return]


def _module(name: str, spec: ObjectiveSpec) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing == name or name.startswith(missing + "."):
            places = ", ".join(spec.path) or "the Python path"
            raise ObjectiveError(
                f"--objective {spec.reference!r}: there is no module {missing!r} in {places} nor "
                "among the installed packages; start in the directory that holds it, or install it."
            ) from error
        raise ObjectiveError(
            f"--objective {spec.reference!r}: importing {name} needs the module {missing!r}, which "
            "is not installed here."
        ) from error
    except Exception as error:
        raise ObjectiveError(
            f"--objective {spec.reference!r}: importing {name} failed with "
            f"{type(error).__name__}: {error}{_where(error, name)}."
        ) from error


def _where(error: BaseException, module: str) -> str:
    """Return " (file, line n)" of the innermost frame in the user's own file, if there is one."""
    if isinstance(error, SyntaxError):
        return ""  # its text names the file and the line already
    tail = module.rpartition(".")[2]
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    own = [frame for frame in frames if Path(frame.filename).stem in (tail, "__init__")]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _attribute(module: Any, qualified_name: str, spec: ObjectiveSpec) -> Any:
    found = module
    for part in qualified_name.split("."):
        if not hasattr(found, part):
            names = [
                name
                for name, value in vars(module).items()
                if inspect.isfunction(value) and value.__module__ == module.__name__
            ]
            known = ", ".join(names) if names else "no function at all"
            raise ObjectiveError(
                f"--objective {spec.reference!r}: {module.__name__} has no {qualified_name!r}; "
                f"it has {known}."
            )
        found = getattr(found, part)
    return found


def spec_of_reference(reference: str) -> ObjectiveSpec:
    """Return the spec of ``package.module:function``, looked up in the current directory first."""
    return ObjectiveSpec(reference=reference, path=(str(Path.cwd()),))


def spec_of(objective: Objective) -> ObjectiveSpec | None:
    """Return how another process finds ``objective``; ``None`` if only this process can.

    A lambda, a nested function, a bound method or an object without ``options()`` has no name that
    another process could look up.
    """
    options = getattr(objective, "options", None)
    if callable(options) and not inspect.isroutine(objective):
        owner: Any = type(objective)
        return _named(owner, options())
    if inspect.isfunction(objective):
        return _named(objective, None)
    return None


def _named(target: Any, options: dict[str, Any] | None) -> ObjectiveSpec | None:
    module_name: str = target.__module__
    path: tuple[str, ...] = ()
    if module_name == "__main__":
        main = sys.modules["__main__"]
        file = getattr(main, "__file__", None)
        if file is None:
            return None  # an interactive session: there is no file to import
        spec = getattr(main, "__spec__", None)
        module_name = spec.name if spec is not None else Path(file).stem
        path = (str(Path.cwd()) if spec is not None else str(Path(file).resolve().parent),)
        found: Any = main
    else:
        found = sys.modules.get(module_name)
    for part in target.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not target:
        return None
    return ObjectiveSpec(
        reference=f"{module_name}:{target.__qualname__}", options=options, path=path
    )


def source_hash(objective: Objective) -> str | None:
    """Return a hash of the file that a plain function comes from.

    ``None`` for an objective with options, which says by those what it does, and for one without a
    file, as of an interactive session.
    """
    if hasattr(objective, "options"):
        return None
    try:
        file = inspect.getsourcefile(inspect.unwrap(objective))
        text = Path(file).read_bytes() if file is not None else b""
    except (TypeError, OSError):  # inspect's way to say that there is no file
        return None
    return hashlib.sha256(text).hexdigest()[:16] if text else None
