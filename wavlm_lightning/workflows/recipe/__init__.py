"""`wavlm recipe`: all stages of a published pre-training, from a corpus to an exported encoder.

Reading order: `chain` (configurations), `stages` (the commands), `run` (`run_recipe`: runs them and remembers which are
done). Tests: `tests/workflows/test_recipe*.py`.
"""

from wavlm_lightning.workflows.recipe.run import run_recipe

__all__ = ["run_recipe"]
