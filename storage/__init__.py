"""The database room: open a database well, own a study, before anything else uses it.

``open_storage`` returns Optuna's own ``RDBStorage``, set up for a coordinator; ``own_study`` keeps
a second coordinator away. Importing this package is cheap: Optuna and SQLAlchemy come with the
first call.
"""

from __future__ import annotations

from storage.address import mask_url
from storage.errors import OwnedError, Owner, StorageError
from storage.opening import open_storage
from storage.outage import is_outage, reason
from storage.overview import StudyOverview, study_overviews
from storage.owners import owner_of, owners_of
from storage.ownership import Ownership, own_study
from storage.views import create_views

__all__ = [
    "OwnedError",
    "Owner",
    "Ownership",
    "StorageError",
    "StudyOverview",
    "create_views",
    "is_outage",
    "mask_url",
    "open_storage",
    "own_study",
    "owner_of",
    "owners_of",
    "reason",
    "study_overviews",
]
