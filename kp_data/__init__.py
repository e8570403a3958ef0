"""kp_data: ask many teacher LLMs, purify their rationales into one, publish the dataset."""

__version__ = "0.1.0"
