"""A harness that kills what a study is made of, and looks whether anything was lost or done twice.

``python -m tests.chaos --help`` says how to run it. It starts a real coordinator process with local
workers; the objective runs inside :mod:`tests.chaos.recorder`, which writes a journal of its own of
every execution; and what the database says is held against that journal and against the
objective itself, which is run again with each trial's parameters.
"""
