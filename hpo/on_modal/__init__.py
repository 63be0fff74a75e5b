"""Everything about Modal but the executor: what is deployed, what runs there, how it is set up.

``hpo/modal_app.py`` defines the app. ``worker``, ``cache``, ``files`` and ``coordinator`` run in
containers; ``setup``, ``token``, ``shipping`` and ``snapshot`` run on the side of whoever starts or
asks. They talk in the messages of ``messages``.
"""
