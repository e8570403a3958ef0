"""How alike the rationales of one question are, by the cosine of their embeddings.

Axes: Q questions, T teachers (a second T: the teacher compared with), D embedding size.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from kp_data.panel import Panel, question_text
from kp_data.purify.answer_groups import same_answer_QTT
from kp_data.purify.embedding import Embedder
from kp_data.purify.evidence import Evidence

Array = np.ndarray[Any, Any]

LONGEST_EMBEDDED: Final = 1_200
"""Characters of a rationale, from its end, that are embedded: encoders read about as much, and it ends in its point."""
BLOCK: Final = 4_096
"""Questions whose rationales are held as vectors at a time."""
SIMILARITY_KINDS: Final = ("cosine_to_all", "cosine_to_group", "cosine_to_rivals", "cosine_to_question")


def embed_rationales_QTD(panel: Panel, embed: Embedder) -> Array:
    """(Q, T, D) float32, unit vectors of the ends of all rationales; zeros where there is none."""
    there_QT = panel.has_rationale_QT
    texts = [text[-LONGEST_EMBEDDED:] for text in panel.rationale_QT[there_QT]]
    vector_ND = embed(texts)
    vector_QTD = np.zeros((*there_QT.shape, vector_ND.shape[1]), dtype=np.float32)
    vector_QTD[there_QT] = vector_ND
    return vector_QTD


def cosine_QTT(vector_QTD: Array) -> Array:
    """(Q, T, T) float, cosines between rationales of one question; nan with itself and with one that is missing."""
    there_QT = np.asarray(vector_QTD.any(2))
    pair_QTT = there_QT[:, :, None] & there_QT[:, None, :] & ~np.eye(vector_QTD.shape[1], dtype=bool)
    return np.where(pair_QTT, np.einsum("qtd,qud->qtu", vector_QTD, vector_QTD), np.nan)


def similarity_evidence(panel: Panel, embed: Embedder) -> Evidence:
    """How near each rationale is to the others, to those of its answer, to those of rival answers, and to its question.

    Returns: evidence of `SIMILARITY_KINDS`, nan where there is nothing to compare with.
    Source: own.
    """
    starts = range(0, max(len(panel), 1), BLOCK)
    blocks = [_block(panel.take(np.arange(start, min(start + BLOCK, len(panel)))), embed) for start in starts]
    return Evidence(SIMILARITY_KINDS, np.concatenate(blocks))


def _block(panel: Panel, embed: Embedder) -> Array:
    vector_QTD = embed_rationales_QTD(panel, embed)
    question_QD = embed([question_text(question) for question in panel.questions])
    pair_QTT = cosine_QTT(vector_QTD)
    same_QTT = same_answer_QTT(panel.concluded_QT)
    question_QT = np.einsum("qtd,qd->qt", vector_QTD, question_QD)
    columns = (
        _mean(pair_QTT),
        _mean(np.where(same_QTT, pair_QTT, np.nan)),
        _mean(np.where(same_QTT, np.nan, pair_QTT)),
        np.where(vector_QTD.any(2), question_QT, np.nan),
    )
    return np.stack(columns, axis=2).astype(float)


def _mean(pair_QTT: Array) -> Array:
    """(Q, T) float, mean over the others, nan where there is none."""
    known_QTT = ~np.isnan(pair_QTT)
    num_QT = known_QTT.sum(2)
    total_QT = np.where(known_QTT, pair_QTT, 0.0).sum(2)
    return np.asarray(np.divide(total_QT, num_QT, out=np.full(num_QT.shape, np.nan), where=num_QT > 0))
