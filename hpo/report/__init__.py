"""What a study found, for people: the fitted scaling laws, and the figures and tables of a report.

Nothing here runs a trial or asks a worker: a report is made from what the study's database holds.
"""

from hpo.report.writing import answers, show_in_dashboard, write_report

__all__ = ["answers", "show_in_dashboard", "write_report"]
