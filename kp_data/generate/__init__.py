"""Ask every teacher every question: plan the cells, ask what is missing, store, export the panel."""

from kp_data.generate.run import Summary, generate_panel

__all__ = ["Summary", "generate_panel"]
