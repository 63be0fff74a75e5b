"""``python -m hpo.run``: run a study from the command line."""

# Workers of the local executor import the main module again, under another name: it does nothing
# until it is the one that was started.
if __name__ == "__main__":
    from hpo.cli import run_alone

    run_alone()
