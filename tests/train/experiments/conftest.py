"""The small rows of the tests beside this folder are small enough for sweeps, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
