"""The cell store: what every teacher answered, who is asking now, and what may still be spent."""

from kp_data.engine import use_wal
from kp_data.store.cells import Ledger, Store, StoredCell, cell_key
from kp_data.store.claims import BEAT_S, Claims, Done, Outcome, Taken, Work, to_nano
from kp_data.store.database import STORE_VERSION

__all__ = [
    "BEAT_S",
    "STORE_VERSION",
    "Claims",
    "Done",
    "Ledger",
    "Outcome",
    "Store",
    "StoredCell",
    "Taken",
    "Work",
    "cell_key",
    "to_nano",
    "use_wal",
]
