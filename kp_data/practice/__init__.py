"""The practice world: made-up questions with known rules, and teachers with known misconceptions.

What a user without an API key, the tests and the demo run on.
"""

from __future__ import annotations

from kp_data.practice.erring import ERRING, ErringTeacher
from kp_data.practice.judges import JUDGES, PracticeJudge
from kp_data.practice.server import ServerSettings, practice_server, run_server
from kp_data.practice.source import PracticeSource, is_practice_source, parse_practice_source
from kp_data.practice.subjects import HELD_OUT, IN_DOMAIN, SUBJECTS
from kp_data.practice.teachers import TEACHERS, PracticeTeacher, Reply, find_teacher
from kp_data.practice.world import make_questions, rules

__all__ = [
    "ERRING",
    "HELD_OUT",
    "IN_DOMAIN",
    "JUDGES",
    "SUBJECTS",
    "TEACHERS",
    "ErringTeacher",
    "PracticeJudge",
    "PracticeSource",
    "PracticeTeacher",
    "Reply",
    "ServerSettings",
    "find_teacher",
    "is_practice_source",
    "make_questions",
    "parse_practice_source",
    "practice_server",
    "rules",
    "run_server",
]
