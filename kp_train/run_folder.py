"""The folder of a training run: who may write there, where it goes on, how it ends.

    OUT/run.json       what the run is; `state` running or done, written first and last
    OUT/.lock          held while it runs
    OUT/checkpoints/   while it runs
    OUT/…              the student, once it is done

A run is its `identity`: everything that decides about the result. A folder of another run is never touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from kp_data.errors import ConfigError, DataError
from kp_data.tables import read_json, write_json

RUN_FILE: Final = "run.json"
CHECKPOINTS: Final = "checkpoints"
STATE_FILE: Final = "trainer_state.json"
SAVING: Final = ".saving"
LOCK_FILE: Final = ".lock"
LOGS: Final = "logs"
"""Folder of TensorBoard's files, beside the checkpoints."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that belongs to this run.

    Attributes:
        path: absolute.
        identity: what decides about the result: dataset hashes, student, objective, options, seed.
    """

    path: Path
    identity: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any]) -> RunFolder:
        """A folder for this run: new or empty, or one in which the same run was begun or finished. Writes nothing.

        Raises:
            ConfigError: the folder holds another run or foreign files; names the first difference.
        """
        path = Path(path).resolve()
        # Through JSON and back, so that what is compared is what was stored.
        identity = json.loads(json.dumps(identity))
        folder = cls(path, identity)
        if path.exists() and not path.is_dir():
            raise ConfigError("is a file; --out needs a folder", place=path)
        folder._check_same()
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, made if need be, for one process: two would mix their checkpoints.

        Raises:
            ConfigError: another process holds it, it cannot be written, or another run was begun here meanwhile.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK_FILE)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                "another fit is writing here; wait for it, or give another --out", place=self.path
            ) from error
        except OSError as error:
            raise ConfigError(f"cannot be written ({error.strerror}); give another --out", place=self.path) from error
        try:
            self._check_same()
            yield
        finally:
            lock.release()

    @property
    def finished(self) -> dict[str, Any] | None:
        """The record of a finished run, None while it is not."""
        if not (self.path / RUN_FILE).is_file():
            return None
        record = read_json(self.path / RUN_FILE)
        return dict(record) if record["state"] == "done" else None

    def begin(self) -> None:
        """Mark the folder as this run's; nothing but the lock is written before."""
        self._write({"state": "running"})

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / CHECKPOINTS

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; those that a crash left half written are removed."""
        whole: dict[int, Path] = {}
        for folder in self.checkpoints.glob("checkpoint-*"):
            number = folder.name.removeprefix("checkpoint-")
            # The state is written last of a checkpoint's files, so a readable one vouches for the rest.
            if number.isdigit() and _is_json(folder / STATE_FILE):
                whole[int(number)] = folder
            else:
                shutil.rmtree(folder)
        if not whole:
            return None
        newest = whole[max(whole)]
        self._mend_best(newest / STATE_FILE)
        return newest

    def prepare_saving(self) -> Path:
        """An empty folder to save the finished student in."""
        saving = self.path / SAVING
        shutil.rmtree(saving, ignore_errors=True)
        saving.mkdir()
        return saving

    def finish(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Move the saved student into place, store the record, and drop the checkpoints.

        Returns: the whole record as stored.
        """
        saving = self.path / SAVING
        for file in sorted(saving.iterdir()):
            file.replace(self.path / file.name)
        saving.rmdir()
        whole = self._write({"state": "done", **record})
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return whole

    def _write(self, record: Mapping[str, Any]) -> dict[str, Any]:
        # As it will be read back: a tuple is a list there.
        whole: dict[str, Any] = json.loads(json.dumps({**record, "identity": self.identity}))
        write_json(whole, self.path / RUN_FILE)
        return whole

    def _check_same(self) -> None:
        if not self.path.is_dir() or all(path.name == LOCK_FILE for path in self.path.iterdir()):
            return
        remedy = "give another --out, or remove this folder"
        if not (self.path / RUN_FILE).is_file():
            raise ConfigError(f"holds files that are not of a training run; {remedy}", place=self.path)
        record = read_json(self.path / RUN_FILE)
        if not isinstance(record, dict) or not isinstance(record.get("identity"), dict) or "state" not in record:
            raise ConfigError(f"is not of a training run of kp-train; {remedy}", place=self.path / RUN_FILE)
        stored = record["identity"]
        for key in [*self.identity, *stored]:
            if stored.get(key) != self.identity.get(key) and not (key == "student" and self._same_files(stored)):
                raise ConfigError(
                    f"holds a run with another {key}: {_short(stored.get(key))} there, "
                    f"{_short(self.identity.get(key))} here; {remedy}",
                    place=self.path,
                )

    def _same_files(self, stored: Mapping[str, Any]) -> bool:
        """Whether both start from a checkpoint in a folder, byte for byte the same one: it may have been moved."""
        mine = self.identity.get("student_files")
        return bool(mine) and stored.get("student_files") == mine

    def _mend_best(self, state_file: Path) -> None:
        """The state names the best checkpoint by absolute path, which is wrong once the folder was moved."""
        state = read_json(state_file)
        if best := state.get("best_model_checkpoint"):
            state["best_model_checkpoint"] = str(self.checkpoints / Path(best).name)
            write_json(state, state_file)


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except DataError:
        return False
    return True


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
