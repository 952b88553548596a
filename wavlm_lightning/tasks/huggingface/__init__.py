"""Heads to and from folders of the transformers library; `huggingface_head` opens one as a task.

Reading order: `heads` (the encoder and the heads as tasks), `reading` (a folder becomes a task), `export` (a task becomes
a folder). Tests: `tests/tasks/test_huggingface_heads.py`.
"""

from wavlm_lightning.tasks.huggingface.reading import huggingface_head

__all__ = ["huggingface_head"]
