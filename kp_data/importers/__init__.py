"""What teachers said elsewhere, as a panel folder."""

from kp_data.importers.records import ImportOptions
from kp_data.importers.registry import FORMATS, Format, find_format, import_panel
from kp_data.importers.writing import ImportReport, LeftOutCount, TeacherCount

__all__ = [
    "FORMATS",
    "Format",
    "ImportOptions",
    "ImportReport",
    "LeftOutCount",
    "TeacherCount",
    "find_format",
    "import_panel",
]
