"""Reports: the same numbers as one HTML file and as a table in the terminal."""

from kp_data.report.comparison import (
    COMPARE_COLUMNS,
    PRACTICAL_COLUMNS,
    compare_rows,
    practical_rows,
    print_comparison,
)
from kp_data.report.html import ReportPage, render_html, write_html
from kp_data.report.pages import TEACHER_COLUMNS, page_of_folder, teacher_rows
from kp_data.report.students import STUDENT_COLUMNS, StudentRow, read_students, student_rows
from kp_data.report.terminal import Column, print_page, print_table, render_table

__all__ = [
    "COMPARE_COLUMNS",
    "PRACTICAL_COLUMNS",
    "STUDENT_COLUMNS",
    "TEACHER_COLUMNS",
    "Column",
    "ReportPage",
    "StudentRow",
    "compare_rows",
    "page_of_folder",
    "practical_rows",
    "print_comparison",
    "print_page",
    "print_table",
    "read_students",
    "render_html",
    "render_table",
    "student_rows",
    "teacher_rows",
    "write_html",
]
