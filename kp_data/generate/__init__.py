"""Ask every teacher every question: plan the cells, ask what is missing, store, export the panel."""

from kp_data.generate.estimate import TeacherEstimate
from kp_data.generate.run import Summary, estimate_panel, generate_panel
from kp_data.generate.status import TeacherStatus, explain_cell, open_jobs, panel_status

__all__ = [
    "Summary",
    "TeacherEstimate",
    "TeacherStatus",
    "estimate_panel",
    "explain_cell",
    "generate_panel",
    "open_jobs",
    "panel_status",
]
