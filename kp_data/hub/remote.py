"""One repository on a Hub endpoint, of a dataset or a model, through the official client.

Every failure is one HubError with a remedy.

Neither `Dataset.push_to_hub` nor `DatasetCard.push_to_hub` is used: the first makes several commits, keeps stale
features and does not survive a concurrent push, the second asks huggingface.co whatever the endpoint.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from kp_data.errors import HubError
from kp_data.hub.versions import Version

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["dataset", "model"]

DEFAULT_ENDPOINT: Final = "https://huggingface.co"

_PARQUET_END: Final = 64 * 1024
_BATCH_BYTES: Final = 64 * 1024 * 1024
_NAME = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?/[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
)
_TOKEN = re.compile(r"\b(?:hf|kp)_[A-Za-z0-9_-]{8,}")


class Overtaken(Exception):
    """The repository changed, or the hub faltered, between reading and committing: read again and retry."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository as the hub lists it; `sha256` for large files, `blob` (git's hash) for the others."""

    size: int
    blob: str | None
    sha256: str | None

    def holds(self, data: bytes | Path) -> bool:
        """Whether it is exactly these bytes, or those of that file."""
        if self.size != size_of(data):
            return False
        if self.sha256 is not None:
            return self.sha256 == sha256_of(data)
        data = data.read_bytes() if isinstance(data, Path) else data
        return self.blob == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class WantedFile:
    """What a file of a repository must be; None: not known.

    Attributes:
        sha256: of its bytes.
        size: in bytes.
        num_rows: of a Parquet file.
    """

    sha256: str | None
    size: int | None
    num_rows: int | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> WantedFile:
        """As a manifest lists it."""
        return cls(facts.get("sha256"), facts.get("bytes"), facts.get("rows"))


@dataclass(frozen=True)
class Remote:
    """A repository.

    Attributes:
        name: `namespace/name`.
        endpoint: URL of the hub, without a slash at its end.
        token: None: what the client finds (HF_TOKEN, or what `hf auth login` saved).
        kind: what it holds.
    """

    name: str
    endpoint: str
    token: str | None = None
    kind: Kind = "dataset"

    @classmethod
    def at(cls, name: str, *, endpoint: str | None = None, token: str | None = None, kind: Kind = "dataset") -> Remote:
        """A repository by name; `endpoint` defaults to HF_ENDPOINT, then huggingface.co.

        Raises:
            HubError: the name or the endpoint cannot be one.
        """
        return cls(check_name(name, kind), find_endpoint(endpoint), token, kind)

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self.endpoint}/datasets/{self.name}" if self.kind == "dataset" else f"{self.endpoint}/{self.name}"

    @property
    def api(self) -> HfApi:
        """The official client for this endpoint."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token, library_name="kp-data")

    def require_token(self) -> None:
        """Say so before any work when there is no token to write with.

        Raises:
            HubError: no token was given or saved.
        """
        from huggingface_hub import get_token

        if not (self.token or get_token()):
            raise HubError(f"no token to push with; {_token_remedy(self.endpoint)}", place=self.endpoint)

    def create(self, *, private: bool) -> None:
        """Make the repository where there is none.

        Raises:
            HubError: refused, unreachable, or public although `private` was asked for.
        """
        with self.failures(f"create the {self.kind}"):
            self.api.create_repo(self.name, repo_type=self.kind, private=private, exist_ok=True)
            info = self.api.repo_info(self.name, repo_type=self.kind)
        if private and not info.private:
            remedy = "make it private there, choose another name, or leave out --private"
            raise HubError(f"this {self.kind} is public already; {remedy}", place=self.url)

    def exists(self) -> bool:
        """Whether there is such a repository that this token may see."""
        with self.failures(f"look for the {self.kind}"):
            return bool(self.api.repo_exists(self.name, repo_type=self.kind))

    def head(self) -> str | None:
        """The commit that `main` stands at; None: an empty repository."""
        with self.failures(f"read the {self.kind}"):
            return self.api.repo_info(self.name, repo_type=self.kind).sha

    def tags(self) -> dict[Version, str]:
        """Version to commit, newest first; tags that are no version are left out."""
        with self.failures("list the versions"):
            refs = self.api.list_repo_refs(self.name, repo_type=self.kind)
        found = {version: ref.target_commit for ref in refs.tags if (version := Version.of_tag(ref.name))}
        return dict(sorted(found.items(), reverse=True))

    def files(self, revision: str) -> dict[str, RemoteFile]:
        """Path to file at a revision."""
        from huggingface_hub.hf_api import RepoFile

        with self.failures("list the files"):
            entries = self.api.list_repo_tree(self.name, recursive=True, revision=revision, repo_type=self.kind)
            return {
                entry.path: RemoteFile(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
                for entry in entries
                if isinstance(entry, RepoFile)
            }

    def read(self, path: str, revision: str) -> bytes:
        """A file's bytes at a commit."""
        with self.failures(f"read {path}"), _quiet_bars():
            local = self.api.hf_hub_download(self.name, path, revision=revision, repo_type=self.kind)
            return Path(local).read_bytes()

    def first_wrong(self, commit: str, wanted: Mapping[str, WantedFile], gone: Sequence[str]) -> str | None:
        """The first path at a commit that is not as wanted, or is there and should be gone; None: all is well.

        Large files are compared by the hash the hub lists, and Parquet files by the number of rows that their end, read
        from the hub, tells; small files are read.
        """
        files = self.files(commit)
        wrong = (path for path, want in wanted.items() if not self._is_as_wanted(commit, path, files.get(path), want))
        return next(wrong, None) or next((path for path in gone if path in files), None)

    def _is_as_wanted(self, commit: str, path: str, file: RemoteFile | None, want: WantedFile) -> bool:
        if file is None or (want.size is not None and file.size != want.size):
            return False
        if file.sha256 is None:
            return hashlib.sha256(self._get(path, commit)).hexdigest() == want.sha256
        return file.sha256 == want.sha256 and (
            want.num_rows is None or self._num_rows(path, commit, file.size) == want.num_rows
        )

    def _num_rows(self, path: str, commit: str, size: int) -> int | None:
        """Rows of a Parquet file as its end says; None: that is not the end of a Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        end = self._get(path, commit, last=_PARQUET_END)
        # The last eight bytes are the length of the metadata before them, and the magic number.
        needed = int.from_bytes(end[-8:-4], "little") + 8
        if len(end) < needed <= size:
            end = self._get(path, commit, last=needed)
        try:
            return int(pq.read_metadata(pa.BufferReader(end)).num_rows)
        except pa.ArrowException:
            return None

    def _get(self, path: str, commit: str, *, last: int | None = None) -> bytes:
        """A file's bytes, or its last ones, from the hub itself and never from a cache."""
        from huggingface_hub import get_session, get_token, hf_hub_url, hf_raise_for_status

        url = hf_hub_url(self.name, path, revision=commit, repo_type=self.kind, endpoint=self.endpoint)
        token = self.token or get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if last is not None:
            headers["Range"] = f"bytes=-{last}"
        with self.failures(f"read {path} back"):
            answer = get_session().get(url, headers=headers, follow_redirects=True)
            hf_raise_for_status(answer)
            return bytes(answer.content)

    def snapshot(self, revision: str, *, patterns: Sequence[str] | None = None) -> Path:
        """A local folder with every file at a commit, or those that match, from the client's cache where it can."""
        with self.failures(f"fetch the {self.kind}"), _quiet_bars():
            found = self.api.snapshot_download(
                self.name, revision=revision, repo_type=self.kind, allow_patterns=list(patterns) if patterns else None
            )
            return Path(found)

    def commit(
        self, add: Mapping[str, bytes | Path], delete: Sequence[str], *, message: str, parent: str | None
    ) -> str:
        """One commit on `main` with all files at once, each given as its bytes or where they lie; its id.

        Raises:
            Overtaken: somebody else committed after `parent`, or the hub failed on its side.
            HubError: refused or unreachable.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

        added = {path: CommitOperationAdd(path_in_repo=path, path_or_fileobj=data) for path, data in add.items()}
        deleted = [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in delete]
        with self.failures("commit", retry=(409, 412, 500, 502, 503, 504)), _quiet_bars():
            for paths in _batches(add):
                self.api.preupload_lfs_files(self.name, [added[path] for path in paths], repo_type=self.kind)
            operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete]
            operations = [*added.values(), *deleted]
            info = self.api.create_commit(
                self.name, operations, commit_message=message, parent_commit=parent, repo_type=self.kind
            )
            return str(info.oid)

    def tag(self, version: Version, commit: str) -> None:
        """Tag a commit; done already is fine.

        Raises:
            HubError: refused, or the tag stands at another commit.
        """
        with self.failures(f"tag {version.tag}"):
            self.api.create_tag(self.name, tag=version.tag, revision=commit, repo_type=self.kind, exist_ok=True)
        if (found := self.tags().get(version)) != commit:
            message = (
                f"tag {version.tag} stands at commit {found}, not at {commit}: somebody else published that version"
            )
            raise HubError(f"{message}; push again to publish yours as the next one", place=self.url)

    @contextmanager
    def failures(self, action: str, *, retry: Sequence[int] = ()) -> Iterator[None]:
        """Turn whatever the client raises into one HubError, or Overtaken for a status in `retry`."""
        import httpx
        from huggingface_hub import errors

        try:
            yield
        except errors.HfHubHTTPError as error:
            if _status(error) in retry:
                raise Overtaken(f"HTTP {_status(error)}") from error
            raise HubError(f"cannot {action}: {self._refusal(error)}", place=self.url) from error
        except errors.LocalEntryNotFoundError as error:
            raise HubError(
                f"cannot {action}: it is not in the cache, and the hub cannot be reached", place=self.url
            ) from error
        except errors.HFValidationError as error:
            raise HubError(f"not a name that a hub takes ({first_line(error)})", place=self.name) from error
        except (httpx.TransportError, errors.OfflineModeIsEnabled, ConnectionError) as error:
            raise self._unreachable(action, error) from error
        except (ValueError, OSError, RuntimeError) as error:
            # Among these are a card that the hub finds invalid and an upload that broke for good.
            if isinstance(error.__cause__, httpx.TransportError):
                raise self._unreachable(action, error.__cause__) from error
            cause = "" if error.__cause__ is None else f" ({first_line(error.__cause__)})"
            raise HubError(f"cannot {action}: {first_line(error)}{cause}{_room(error)}", place=self.url) from error

    def _unreachable(self, action: str, error: BaseException) -> HubError:
        remedy = "check the address (--endpoint or HF_ENDPOINT) and the network, then run the same command again"
        message = f"cannot {action}: the hub cannot be reached ({first_line(error)}); {remedy}"
        return HubError(message, place=self.endpoint)

    def _refusal(self, error: Any) -> str:
        from huggingface_hub import errors

        status, said = _status(error), first_line(getattr(error, "server_message", None) or "")
        if isinstance(error, errors.GatedRepoError):
            return f"access must be asked for first; do so at {self.url}"
        if isinstance(error, errors.RevisionNotFoundError):
            listed = f"`kp-data versions {self.name}` lists" if self.kind == "dataset" else f"{self.url} shows"
            return f"no such version; {listed} what there is"
        if status == 401 and "invalid" in said.lower():
            return f"the hub does not know this token; {_token_remedy(self.endpoint)}"
        if status == 401:
            return f"no such {self.kind}, or it needs a token; {_token_remedy(self.endpoint)}"
        if status == 403:
            namespace = self.name.split("/")[0]
            return f"this token may not do that ({said or 'forbidden'}); use one that may write to {namespace}"
        if isinstance(error, errors.RepositoryNotFoundError | errors.RemoteEntryNotFoundError):
            return f"no such {self.kind} or file, or this token may not see it; check the name and the token"
        if status == 429:
            return "the hub asks to slow down; wait a few minutes and run the same command again"
        return f"the hub answered {status} ({said or 'without a reason'}); run the same command again later"


def _batches(files: Mapping[str, bytes | Path]) -> Iterator[list[str]]:
    """The paths in groups of some size: a group that was sent whole is never sent again, whatever ends the push."""
    batch: list[str] = []
    size = 0
    for path, data in files.items():
        batch.append(path)
        size += size_of(data)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def size_of(data: bytes | Path) -> int:
    """Bytes of a file, given as they are or by where they lie."""
    return data.stat().st_size if isinstance(data, Path) else len(data)


def sha256_of(data: bytes | Path) -> str:
    """Their SHA-256, a file's without holding it in memory."""
    if not isinstance(data, Path):
        return hashlib.sha256(data).hexdigest()
    with data.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_name(name: str, kind: Kind = "dataset") -> str:
    """`namespace/name`, as it is.

    Raises:
        HubError: a hub would not take it.
    """
    if not _NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        rule = "give namespace/name of letters, digits, '-', '_' and '.', such as my-team/science-qa"
        raise HubError(f"{name!r} cannot be the name of a {kind}; {rule}")
    return name


def find_endpoint(endpoint: str | None) -> str:
    """The hub's URL: as given, else HF_ENDPOINT, else huggingface.co.

    Raises:
        HubError: it is no http(s) URL.
    """
    found = (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", found):
        raise HubError(
            f"endpoint {redact(found)!r} is not a URL such as https://huggingface.co or http://127.0.0.1:8000"
        )
    return found


def first_line(error: object) -> str:
    """The first line of a message, without anything that looks like a token."""
    lines = str(error).strip().splitlines()
    return redact(lines[0][:300]) if lines else type(error).__name__


def redact(text: str) -> str:
    """A text without anything that looks like a token.

    >>> redact("token hf_abcdefgh12345 refused")
    'token [token] refused'
    """
    return _TOKEN.sub("[token]", re.sub(r"(?<=//)[^/@\s]+@", "", text))


def _token_remedy(endpoint: str) -> str:
    if endpoint == DEFAULT_ENDPOINT:
        return (
            "set HF_TOKEN to a token with write access (https://huggingface.co/settings/tokens), or run `hf auth login`"
        )
    return "set HF_TOKEN to a token with write access to this hub; its operator gives them out"


def _room(error: BaseException) -> str:
    # Xet's errors have no number, only its text.
    texts = [os.strerror(number).casefold() for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    full = any(text in str(error).casefold() for text in texts)
    return "; free space, or set HF_HOME to a folder with more of it for the cache" if full else ""


def _status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """No live bars where nobody is watching, and none of the client's notes: they show signed addresses."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
