"""Embedding on a Ray cluster: the bytes of this process, also when a worker is lost, and clear words when it cannot."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from topic_panels import topic_answers, topic_questions, write_panel

from kp_data.errors import ConfigError
from kp_data.generate.cluster import joined_cluster
from kp_data.purify import Embedder, purify_panel
from kp_data.purify.embedding_cluster import ClusterEncoder, loader_on_cluster

KP_DATA = [sys.executable, "-c", "from kp_data.cli import main; main()"]
TEXTS = [f"Question {number} about {'rain and ' * (number % 9)}wind" for number in range(30)] + ["", "two\nlines"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        with joined_cluster(2):
            yield


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kp_data.purify.embedding_cluster.TEXTS_A_TASK", 4)


def embedder(**options: object) -> Embedder:
    return Embedder(batch_size=2, device="cpu", cache=None, **options)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "small_tasks")
def test_a_cluster_gives_the_bytes_of_this_process_in_the_order_of_the_texts() -> None:
    here, there = embedder(), embedder(load=loader_on_cluster(2))
    assert np.array_equal(there(TEXTS), here(TEXTS))
    assert (there.model.identity, there.model.size) == (here.model.identity, here.model.size)
    assert there.num_parameters == here.num_parameters
    assert there(TEXTS[::-1]).flags.owndata
    assert there([]).shape == (0, 384)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster", "small_tasks")
def test_texts_of_a_lost_worker_are_embedded_by_another() -> None:
    model = ClusterEncoder.start("minilm", "cpu", "auto", workers=2)
    vector_ND = np.full((len(TEXTS), model.size), np.nan, dtype=np.float32)
    killed = []
    for rows, part_ND in model.batches(TEXTS, 2):
        vector_ND[rows] = part_ND
        if not killed:
            killed = [one for one in psutil.Process().children(recursive=True) if "ray::_embed" in one.cmdline()[:1]]
            for one in killed:
                one.kill()
    assert killed
    assert np.array_equal(vector_ND, embedder()(TEXTS))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_purified_folder_does_not_tell_where_its_questions_were_embedded(tmp_path: Path) -> None:
    questions = topic_questions(20)
    panel = write_panel(tmp_path / "panel", questions, topic_answers(questions))
    for name, more in (("here", {}), ("there", {"load": loader_on_cluster(2)})):
        purify_panel(panel, method="similarity-router", out=tmp_path / name, **more)
    files = [path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*") if path.is_file()]
    assert Path("router/router.safetensors") in files
    for file in files:
        if file.name != "report.json":
            assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_what_a_worker_cannot_do_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"worker: embedder '.*nothing': cannot load the encoder"):
        ClusterEncoder.start(str(tmp_path / "nothing"), "cpu", "auto", workers=2)
    with pytest.raises(ConfigError, match="device 'cuda': no node of the Ray cluster has a GPU; give cpu"):
        ClusterEncoder.start("minilm", "cuda", "auto", workers=2)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_that_compute_otherwise_are_refused() -> None:
    model = ClusterEncoder.start("minilm", "cpu", "auto", workers=2)
    other = replace(model, about=replace(model.about, identity="minilm on another processor", host="elsewhere"))
    with pytest.raises(ConfigError, match=r"the one on elsewhere by .*last bits; use nodes of one kind"):
        list(other.batches(TEXTS, 2))


def test_without_ray_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from kp_data.cli.purify import _loader

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "knowledge-purification\[ray\]"'), _loader("ray", None):
        pass


@pytest.mark.parametrize("command", ["purify", "compare"])
def test_workers_without_a_cluster_are_a_mistake(tmp_path: Path, command: str) -> None:
    methods = ["--method", "random", "--out", str(tmp_path / "o")] if command == "purify" else ["--methods", "random"]
    write_panel(tmp_path / "panel", questions := topic_questions(5), topic_answers(questions))
    ended = subprocess.run(
        [*KP_DATA, command, str(tmp_path / "panel"), *methods, "--workers", "2"], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "--workers is for --engine ray" in ended.stderr
    assert "Traceback" not in ended.stderr
