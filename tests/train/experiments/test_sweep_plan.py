from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from small_sweep import plan_of, write_sweep

from kp_data.errors import ConfigError
from kp_train.experiments.plan import Plan

OOD = {"datasets": [{"name": "plants", "source": "practice:20?subjects=plants"}]}


def pairs(plan: Plan, domain: str = "in") -> Counter[tuple[str, int]]:
    cells = [task.cell for task in plan.cells]
    return Counter((cell.method, cell.count) for cell in cells if cell is not None and cell.domain == domain)


def test_every_method_meets_every_number_of_teachers_student_and_seed(tmp_path: Path) -> None:
    plan = plan_of(write_sweep(tmp_path))
    assert pairs(plan) == {("fine-tune", 0): 2, ("step-by-step", 1): 2, ("all", 2): 2, ("best-single", 2): 2}
    assert Counter(task.kind for task in plan.tasks) == {"ask": 1, "purify": 1, "cell": 8}


def test_tasks_stand_after_what_they_need_and_no_two_share_a_folder(tmp_path: Path) -> None:
    plan = plan_of(write_sweep(tmp_path, out_of_domain=OOD))
    seen: set[str] = set()
    for task in plan.tasks:
        assert set(task.needs) <= seen
        seen.add(task.name)
    assert len(seen) == len(plan.tasks)


def test_one_seed_more_leaves_every_other_task_as_it_is(tmp_path: Path) -> None:
    before = {task.name for task in plan_of(write_sweep(tmp_path)).tasks}
    after = {task.name for task in plan_of(write_sweep(tmp_path, seeds=[0, 1, 2])).tasks}
    assert before < after
    assert len(after - before) == 4


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"budget": {"steps": 3, "evaluations": 1}}, {"cell"}),
        ({"embedder": "other"}, {"purify", "cell"}),
        ({"about": "other words"}, set()),
        ({"keep_students": True}, set()),
        ({"teachers": ["bruno", "ada"]}, {"ask", "purify", "cell"}),
    ],
)
def test_a_key_holds_what_decides_and_nothing_else(tmp_path: Path, changes: dict[str, object], kinds: set[str]) -> None:
    before = {task.name for task in plan_of(write_sweep(tmp_path)).tasks}
    new = [task for task in plan_of(write_sweep(tmp_path, **changes)).tasks if task.name not in before]
    assert {task.kind for task in new} == kinds


def test_a_teacher_more_costs_only_what_that_teacher_takes_part_in(tmp_path: Path) -> None:
    def planned(*teachers: str) -> Plan:
        students = [{"name": "tiny", "model": "tiny-t5"}]
        data = [{"name": "colours", "source": "practice:20"}]
        methods = ["fine-tune", "all", "best-single"]
        return plan_of(
            write_sweep(tmp_path, datasets=data, teachers=list(teachers), students=students, methods=methods, seeds=[0])
        )

    before = {task.name for task in planned("practice/ada", "practice/bruno").tasks}
    after = planned("practice/ada", "practice/bruno", "practice/clara").tasks
    new = [task for task in after if task.name not in before]
    assert {task.facts.get("count") for task in new if task.kind == "purify"} == {3}
    assert {task.cell.count for task in new if task.cell is not None} == {3}
    assert sum(task.kind == "ask" for task in new) == 1


def test_other_bytes_in_a_panel_are_another_panel(tmp_path: Path) -> None:
    from small_rows import small_questions, write_panel

    before = plan_of(write_sweep(tmp_path)).tasks[0].key
    write_panel(tmp_path / "panel", small_questions(13))
    assert plan_of(tmp_path / "sweep.yaml").tasks[0].key != before


def test_out_of_domain_takes_every_teacher_and_asks_once_for_each_method(tmp_path: Path) -> None:
    plan = plan_of(write_sweep(tmp_path, out_of_domain=OOD, methods=["all", "similarity-router", "teacher-selection"]))
    assert pairs(plan, "out") == {("fine-tune", 0): 2, ("all", 2): 2, ("similarity-router", 2): 2}
    asks = [task for task in plan.tasks if task.kind == "ask" and "method" in task.facts]
    assert [task.facts["method"] for task in asks] == ["fine-tune", "all", "similarity-router"]


def test_a_method_that_reads_the_answers_cannot_choose_out_of_domain(tmp_path: Path) -> None:
    ood = {**OOD, "methods": ["teacher-selection"]}
    with pytest.raises(ConfigError, match="'teacher-selection' cannot choose before teachers answer"):
        plan_of(write_sweep(tmp_path, methods=["all", "teacher-selection"], out_of_domain=ood))


def test_whole_seeds_come_one_after_another(tmp_path: Path) -> None:
    seeds = [task.cell.seed for task in plan_of(write_sweep(tmp_path)).cells if task.cell is not None]
    assert seeds == sorted(seeds)


def test_a_panel_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no panel folder there"):
        plan_of(write_sweep(tmp_path, datasets=[{"name": "colours", "panel": "elsewhere"}]))


def test_other_weights_under_the_same_name_are_another_student(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    path = write_sweep(tmp_path, students=[{"name": "own", "model": str(checkpoint)}])
    before = [task.key for task in plan_of(path).cells]
    assert [task.key for task in plan_of(path).cells] == before
    (checkpoint / "config.json").write_text('{"vocab_size": 8}')
    assert set(before).isdisjoint(task.key for task in plan_of(path).cells)


def test_another_encoder_under_the_same_name_purifies_anew(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    path = write_sweep(tmp_path, embedder=str(tmp_path / "encoder"))
    before = {task.kind: task.key for task in plan_of(path).tasks}
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"other")
    after = {task.kind: task.key for task in plan_of(path).tasks}
    assert (before["ask"] == after["ask"], before["purify"] == after["purify"]) == (True, False)


def test_other_prompts_are_other_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(tmp_path)
    before = plan_of(path).tasks[0].key
    monkeypatch.setattr("kp_train.experiments.plan.PROMPT_VERSION", -1)
    assert plan_of(path).tasks[0].key != before


def test_names_of_datasets_that_change_places_are_other_rows(tmp_path: Path) -> None:
    """Rows of a joined panel are led by the name of their dataset: under the old keys they would be the other's."""

    def planned(*names: str) -> dict[str, set[str]]:
        data = [{"name": name, "source": f"practice:{20 + number}"} for number, name in enumerate(names)]
        tasks = plan_of(write_sweep(tmp_path, datasets=data, teachers=["practice/ada", "practice/bruno"])).tasks
        return {kind: {task.name for task in tasks if task.kind == kind} for kind in ("join", "purify", "cell")}

    before, after = planned("x", "y"), planned("y", "x")
    assert all(before[kind].isdisjoint(after[kind]) for kind in before)
