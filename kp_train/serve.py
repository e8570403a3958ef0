"""Students as teachers: an OpenAI-compatible server over folders of `kp-train fit`, asked as any other.

    POST /v1/chat/completions   GET /v1/models

The last question block of a prompt is read back (`kp_data.teachers.prompts` writes it), asked under the student's own
prefix, and what the student writes is sent as it is. Requests that wait while a student writes are answered together
in the next batch. Sampling parameters are accepted and without effect: students write greedily.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from aiohttp import web

from kp_data.errors import ConfigError
from kp_data.schema import Question
from kp_train.student_folder import student_digest
from kp_train.views import rationale_prefix

MAX_TOGETHER: Final = 64
MAX_BODY_BYTES: Final = 2**20
WRITES: Final = 1
"""Of the way in which a prompt is put to a student; higher whenever the same weights answer otherwise."""
_HEAD: Final = "Question: "
_CHOICES: Final = "Answer choices:"
_CONTEXT: Final = "Context: "
_CHOICE: Final = re.compile(r"^\((?:[A-Z]|\d+)\) (.*)$")


class Writer(Protocol):
    """Who writes: questions and a prefix to one text each."""

    def __call__(self, questions: Sequence[Question], prefix: str) -> list[str]: ...


def read_question(prompt: str) -> Question:
    """The last question of a prompt with its choices; a prompt of another layout is a question as it stands.

    >>> read_question("Question: Is ice cold?\\nAnswer choices:\\n(A) yes\\n(B) no\\n\\nThink.").choices
    ('yes', 'no')
    >>> read_question("Is ice cold?").question
    'Is ice cold?'
    """
    start = _last_line(_HEAD, prompt)
    if start < 0:
        return Question(id="", question=prompt.strip())
    # Behind the last blank line stands what is wanted; a question itself may have some.
    block, blank, wanted = prompt[start + len(_HEAD) :].rpartition("\n\n")
    text, _, rest = (block if blank else wanted).partition(f"\n{_CHOICES}\n")
    choices = []
    for line in rest.splitlines():
        if (found := _CHOICE.match(line)) is None:
            break
        choices.append(found[1])
    return Question(id="", question=text.strip(), choices=tuple(choices), context=_context(prompt[:start]))


def _last_line(head: str, text: str) -> int:
    """Where the last line begins that begins so; -1: none does."""
    found = text.rfind(f"\n{head}")
    return found + 1 if found >= 0 else 0 if text.startswith(head) else -1


def _context(before: str) -> str | None:
    """The passage before the last question, None where the last passage is that of an example."""
    start = _last_line(_CONTEXT, before)
    if start < 0 or _last_line(_HEAD, before[start:]) >= 0:
        return None
    return before[start + len(_CONTEXT) :].strip() or None


def identity_of(student: Path) -> str:
    """What the answers of a served student depend on, wherever it is served: a name for its bytes.

    For `kp_data.generate.generate_panel`, whose keys would otherwise hold the port.
    """
    return f"kp-serve/{WRITES}|{student_digest(student)}"


@contextmanager
def serving(students: Mapping[str, Path], *, host: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Serve students, each as a model of its name, for as long as the block lasts.

    Args:
        students: name to the --out folder of a fit.
        host: address to listen on; the port is any free one.

    Gives: name to base URL, which ends in `/v1`.

    Raises:
        ConfigError: a student cannot write.
    """
    writers = {name: _writer(folder) for name, folder in students.items()}
    with serving_writers(writers, host=host) as url:
        yield dict.fromkeys(students, url)


@contextmanager
def serving_writers(writers: Mapping[str, Writer], *, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve whatever writes, on a thread of its own; gives the base URL."""
    ready: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(writers, host, ready)), name="kp-serve", daemon=True)
    thread.start()
    url, loop, over = ready.result()
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


async def _serve(
    writers: Mapping[str, Writer], host: str, ready: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    over = asyncio.Event()
    desks = {name: _Desk(writer) for name, writer in writers.items()}
    runner = web.AppRunner(_app(desks), access_log=None, shutdown_timeout=1.0)
    try:
        await runner.setup()
        site = web.TCPSite(runner, host, 0)
        await site.start()
        port = runner.addresses[0][1]
        ready.set_result((f"http://{host}:{port}/v1", asyncio.get_running_loop(), over))
        await over.wait()
    except Exception as error:
        if ready.done():
            raise
        # Whoever waits for the address would wait forever.
        told = ConfigError(f"cannot listen ({error.strerror})", place=host) if isinstance(error, OSError) else error
        ready.set_exception(told)
    finally:
        for desk in desks.values():
            await desk.close()
        await runner.cleanup()


class _Desk:
    """One student's requests: whatever waits is written together, one batch at a time."""

    def __init__(self, write: Writer) -> None:
        self._write = write
        self._waiting: asyncio.Queue[tuple[Question, asyncio.Future[str]]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> str:
        """What the student writes; an error of the student is raised to every request of its batch."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        reply: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self._waiting.put((question, reply))
        return await reply

    async def close(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MAX_TOGETHER and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            questions = [question for question, _ in batch]
            try:
                texts = await asyncio.to_thread(self._write, questions, rationale_prefix("rationale-first"))
            except Exception as error:
                # Whatever the model raised is the answer to these requests, and no end of the server.
                for _, reply in batch:
                    if not reply.done():
                        reply.set_exception(web.HTTPInternalServerError(text=f"{type(error).__name__}: {error}"[:300]))
                continue
            for (_, reply), text in zip(batch, texts, strict=True):
                if not reply.done():
                    reply.set_result(text)


def _app(desks: Mapping[str, _Desk]) -> web.Application:
    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in desks]})

    async def complete(request: web.Request) -> web.Response:
        try:
            name, prompt = _asked(await request.json())
        except (ValueError, TypeError, KeyError, IndexError) as error:
            return _refusal(400, f"no chat request ({error})")
        if name not in desks:
            return _refusal(404, f"no model {name!r}; there are {', '.join(desks)}")
        try:
            text = await desks[name].ask(read_question(prompt))
        except web.HTTPInternalServerError as error:
            return _refusal(500, str(error.text))
        return web.json_response(_body(name, prompt, text))

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", complete)])
    return app


def _asked(body: Any) -> tuple[str, str]:
    """Model and the last message's text."""
    content = body["messages"][-1]["content"]
    if not isinstance(content, str) or not isinstance(body["model"], str):
        raise TypeError("model and content must be texts")
    return body["model"], content


def _body(name: str, prompt: str, text: str) -> dict[str, Any]:
    read, written = _count(prompt), _count(text)
    return {
        "id": "chatcmpl-kp",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=status)


def _count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def _writer(folder: Path) -> Writer:
    """A loaded student, on the device if there is one."""
    import torch

    from kp_train.students import load_student

    student = load_student(folder)
    if not student.writes_text:
        raise ConfigError("this student scores choices and cannot write, so it is no teacher", place=folder)
    model: Any = student.model
    if torch.cuda.is_available():
        model.to("cuda")

    def write(questions: Sequence[Question], prefix: str) -> list[str]:
        return student.generate_all(questions, prefix)

    return write
