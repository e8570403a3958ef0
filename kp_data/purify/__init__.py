"""Purification: from the conflicting rationales of a panel to one a question.

The door of the room: one Protocol (`Method`, `Fitted`, `Purification`, `Router`), the registry, and what uses them.
"""

from kp_data.purify.aggregation_inputs import aggregator_text
from kp_data.purify.compare import Comparison, compare_methods
from kp_data.purify.embedding import Embedder, embed_texts
from kp_data.purify.figures import Figures, Report
from kp_data.purify.protocol import Context, FitData, Fitted, Labels, Method, MethodInfo, Partners, Purification, Router
from kp_data.purify.purified import purify_panel
from kp_data.purify.registry import METHODS, find_method, methods, read_options
from kp_data.purify.routers import load_router

__all__ = [
    "METHODS",
    "Comparison",
    "Context",
    "Embedder",
    "Figures",
    "FitData",
    "Fitted",
    "Labels",
    "Method",
    "MethodInfo",
    "Partners",
    "Purification",
    "Report",
    "Router",
    "aggregator_text",
    "compare_methods",
    "embed_texts",
    "find_method",
    "load_router",
    "methods",
    "purify_panel",
    "read_options",
]
