"""Ask every teacher every question: plan the cells, ask what is missing, store, export the panel."""

from kp_data.generate.run import Summary, generate_panel
from kp_data.generate.status import TeacherStatus, explain_cell, panel_status

__all__ = ["Summary", "TeacherStatus", "explain_cell", "generate_panel", "panel_status"]
