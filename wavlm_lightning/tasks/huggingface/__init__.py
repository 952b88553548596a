"""Heads to and from Hugging Face folders; `huggingface_head` opens one."""

from wavlm_lightning.tasks.huggingface.tasks import huggingface_head

__all__ = ["huggingface_head"]
