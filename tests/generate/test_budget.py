"""A budget is kept to the billionth of a dollar, by the server's own count of what it bills; and it is used up.

The server bills every call that its model began to work on, also those whose answer nobody received.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from practice_runs import billed_nano, change_faults, command, finish, opened, reset, stats, steady, wait_for

from kp_data.config import Generate, Price, Teacher
from kp_data.errors import ConfigError
from kp_data.generate import Summary, generate_panel
from kp_data.generate.engine import most_nano
from kp_data.generate.status import plan_of_folder
from kp_data.practice import practice_server

PRICE = Price(input=1.0, output=2.0, request=0.00001)
INPUT, OUTPUT, REQUEST = 1_000, 2_000, 10_000
"""The same, in billionths of a dollar a token and a call."""
UNSEEN = "hang:0.04,disconnect:0.04,cut:0.04,broken:0.04,504:0.04,500:0.04,429:0.04"
"""Faults of which many cost the whole call and bring nothing."""


def priced(url: str, names: str = "ada bruno") -> list[Teacher]:
    shape = {"api_base": url, "price": PRICE, "max_tokens": 64}
    return [Teacher(name=name, model=f"practice/{name}", **shape) for name in names.split()]


def spend(out: Path, url: str, budget: float | None, source: str = "practice:150", **options: Any) -> Summary:
    return generate_panel(source, out=out, teachers=priced(url), options=Generate(budget=budget, **options))


def bill(url: str) -> int:
    return billed_nano(url, INPUT, OUTPUT, REQUEST)


def ledger(out: Path) -> tuple[int, int]:
    """Spent and reserved, in billionths of a dollar."""
    with opened(f"sqlite:///{out}/cells.sqlite") as store:
        money = store.ledger()
    return round(money.spent_usd * 1e9), round(money.reserved_usd * 1e9)


def dearest(out: Path) -> int:
    """The most that any one call of a panel may cost, in billionths of a dollar."""
    plan = plan_of_folder(out)
    return max(most_nano(teacher, cell) for teacher in plan.teachers for cell in plan.cells(teacher))


def with_budget(out: Path, url: str, *more: str, source: str = "practice:150") -> subprocess.Popen[str]:
    """A run as a process of its own; its teachers and their prices stand in a kp.yaml."""
    settings = out.with_name(f"{out.name}.yaml")
    teachers = [teacher.model_dump(exclude_none=True) for teacher in priced(url)]
    settings.write_text(yaml.safe_dump({"teachers": teachers}))
    return command(out, (), source, "--config", str(settings), *more)


def test_a_calm_run_spends_the_budget_to_the_last_call_that_fits(tmp_path: Path) -> None:
    with practice_server(latency_s=0.02) as url:
        whole = spend(tmp_path / "whole", url, None)
        everything = bill(url)
        assert ledger(tmp_path / "whole") == (everything, 0)
        reset(url)
        budget = everything // 2
        summary = spend(tmp_path / "half", url, budget / 1e9, concurrency=100)
        spent = bill(url)
        assert ledger(tmp_path / "half") == (spent, 0)
        assert 0 <= budget - spent < dearest(tmp_path / "half")
    assert whole.left == 0
    assert {tally.stopped for tally in summary.tallies} == {"the budget is used up"}
    assert 0 < summary.left < 300


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(tmp_path: Path) -> None:
    with practice_server(latency_s=0.01) as url:
        spend(tmp_path / "whole", url, None, "practice:30")
        everything = bill(url)
        reset(url)
        code, printed, complaints = finish(
            with_budget(tmp_path / "panel", url, "--budget", f"{everything / 2e9:.9f}", source="practice:30")
        )
        assert code == 3
        assert "the budget is used up" in complaints
        assert "Traceback" not in complaints
        assert printed["left"] > 0
        assert bill(url) <= everything // 2
        # The whole of it is what the answers cost, and what the last call may cost at most on top.
        enough = everything + dearest(tmp_path / "panel")
        code, printed, complaints = finish(
            with_budget(tmp_path / "panel", url, "--budget", f"{enough / 1e9:.9f}", source="practice:30")
        )
        assert (code, printed["left"]) == (0, 0), complaints
        assert bill(url) == everything
        assert stats(url)["begun_again"] == 0
    assert steady(tmp_path / "panel").equals(steady(tmp_path / "whole"))


@pytest.mark.parametrize("budget", [0.0, 1e-9])
def test_a_budget_that_no_call_fits_in_asks_nothing(tmp_path: Path, budget: float) -> None:
    with practice_server() as url:
        summary = spend(tmp_path, url, budget, "practice:5")
        assert stats(url)["requests"] == 0
    assert summary.left == 10
    assert {tally.stopped for tally in summary.tallies} == {"the budget is used up"}


def test_a_price_that_is_not_known_is_refused_before_anything_is_written_or_asked(tmp_path: Path) -> None:
    with practice_server() as url:
        teachers = [*priced(url, "ada"), Teacher(name="unknown", model="bruno", api_base=url)]
        with pytest.raises(ConfigError, match=r"the price of unknown is not known; give it in kp\.yaml"):
            generate_panel("practice:5", out=tmp_path / "panel", teachers=teachers, options=Generate(budget=1.0))
        assert stats(url)["requests"] == 0
    assert not (tmp_path / "panel").exists()


def test_calls_that_cost_and_bring_nothing_count_and_the_budget_still_holds(tmp_path: Path) -> None:
    with practice_server(latency_s=0.01, faults=UNSEEN, seed=3) as url:
        budget = 40_000_000
        summary = spend(tmp_path, url, budget / 1e9, concurrency=100, timeout_s=0.5, retries=3)
        spent, reserved = ledger(tmp_path)
        assert bill(url) <= spent <= budget
        assert reserved == 0
        assert sum(stats(url)["faults"].values()) > 0
    assert any(tally.stopped == "the budget is used up" for tally in summary.tallies)


@pytest.mark.slow
def test_a_thousand_calls_at_once_overshoot_by_nothing(tmp_path: Path) -> None:
    with practice_server(latency_s=0.05) as url:
        budget = 250_000_000
        spend(tmp_path, url, budget / 1e9, "practice:2500", concurrency=1000)
        spent, reserved = ledger(tmp_path)
        assert bill(url) == spent <= budget
        assert budget - spent < dearest(tmp_path)
        assert reserved == 0


@pytest.mark.slow
def test_three_restarts_after_sigkill_and_lost_answers_overshoot_by_nothing(tmp_path: Path) -> None:
    draw, out, budget = random.Random(0), tmp_path / "panel", 60_000_000
    shape = ("--budget", f"{budget / 1e9:.9f}", "--concurrency", "50", "--timeout", "1", "--retries", "2")
    with practice_server(latency_s=0.05, faults=UNSEEN, seed=1) as url:
        for _ in range(3):
            before = stats(url)["requests"]
            process = with_budget(out, url, *shape, source="practice:400")
            wait_for(lambda before=before: stats(url)["requests"] > before, process)
            time.sleep(draw.uniform(0.0, 0.4))
            process.kill()
            process.communicate()
            assert bill(url) <= budget
        code, printed, complaints = finish(with_budget(out, url, *shape, source="practice:400"))
        assert code == 3, complaints
        assert "the budget is used up" in json.dumps(printed)
        spent, reserved = ledger(out)
        assert bill(url) <= spent <= budget
        assert (reserved, budget - spent < dearest(out)) == (0, True)
        change_faults(url, None)
        code, printed, complaints = finish(with_budget(out, url, source="practice:400"))
        assert (code, printed["left"]) == (0, 0), complaints


@pytest.mark.slow
def test_two_processes_share_one_budget_and_overshoot_by_nothing(tmp_path: Path) -> None:
    out, budget = tmp_path / "panel", 40_000_000
    shape = ("--budget", f"{budget / 1e9:.9f}", "--concurrency", "20")
    with practice_server(latency_s=0.05) as url:
        both = [with_budget(out, url, *shape, source="practice:400") for _ in range(2)]
        codes = [finish(process)[0] for process in both]
        assert codes == [3, 3]
        spent, reserved = ledger(out)
        assert bill(url) == spent <= budget
        assert (reserved, budget - spent < dearest(out)) == (0, True)
        assert stats(url)["begun_again"] == 0
