"""Make a database ready before anything else uses it: ``python -m storage [URL]``.

optuna-dashboard and people with psql expect Optuna's tables to be there, and several programs that
start at once need not race to make them. Run again, it changes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from storage import StorageError, create_views, mask_url, open_storage

VARIABLE = "HPO_STORAGE"
"""The environment variable with the URL: an argument, with its password, shows to others."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make Optuna's tables and the views in a database; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m storage",
        description="Make Optuna's tables and the views hpo_trials and hpo_best in a database.",
    )
    parser.add_argument(
        "url", nargs="?", help=f"sqlite:///FILE or postgresql://… [default: ${VARIABLE}]"
    )
    url = parser.parse_args(arguments).url or os.environ.get(VARIABLE)
    if not url:
        parser.error(f"name a database, as an argument or in the environment as {VARIABLE}")
    try:
        create_views(open_storage(url))
    except StorageError as error:
        print(f"storage: {error}", file=sys.stderr)
        return 2
    print(f"ready  {mask_url(url)} · Optuna's tables, and the views hpo_trials and hpo_best")
    return 0


if __name__ == "__main__":
    sys.exit(main())
