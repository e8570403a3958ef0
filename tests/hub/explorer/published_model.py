"""A model as `kp-train push` leaves it on a hub, made by hand: no training, a card with everything a page shows."""

from __future__ import annotations

import json
from collections.abc import Mapping

from kp_data.hub.remote import Remote
from kp_data.hub.versions import Version

PYTHON = 'from transformers import AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained("ada/student")'
CARD = f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
base_model: lab/t5-small
tags: [knowledge-distillation, tinyllm]
datasets: [ada/things, ada/secret, far/away]
model-index:
- name: student
  results:
  - task: {{type: question-answering}}
    dataset: {{type: ada/things, name: ada/things, split: test}}
    metrics: [{{type: accuracy, value: 0.8125, name: accuracy by likelihood (kp-train evaluate)}}]
---
# student

It answers; `run.json` is [here](run.json). <script>alert(1)</script> [bad](javascript:alert(1))

| subject | accuracy |
| --- | ---: |
| things | 81.2 % |

```sh
kp-train predict ada/student questions.jsonl
```

```python
{PYTHON}
```
"""
RUN = {
    "identity": {"student": "tiny-t5", "objective": "purified"},
    "dataset": {"name": "ada/things", "version": "1.0.0", "origin": "hub"},
    "parameters": 1_234_567,
}
FILES: Mapping[str, bytes] = {
    "README.md": CARD.encode(),
    "run.json": json.dumps(RUN).encode(),
    "student.json": b'{"kind": "seq2seq"}',
    "config.json": b"{}",
    "model.safetensors": bytes(1_300_000),
}


def publish_model(
    name: str,
    url: str,
    token: str,
    *,
    files: Mapping[str, bytes] = FILES,
    version: str | None = None,
    private: bool = False,
    message: str = "Student: tiny-t5, purified",
) -> str:
    """One commit with these files, and a tag where a version is given; the commit."""
    remote = Remote.at(name, endpoint=url, token=token, kind="model")
    remote.create(private=private)
    commit = remote.commit(files, [], message=message, parent=remote.head())
    if version is not None:
        remote.tag(Version.parse(version), commit)
    return commit
