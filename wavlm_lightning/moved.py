"""Import paths of older versions: one table of modules that moved, served with a `DeprecationWarning`.

`import wavlm_lightning` installs a finder behind all others, so that it is asked only for modules that do not exist. It
returns a module whose public names are those of the new place, for Python imports and class paths in YAML files alike.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "wavlm_lightning"

ALL = "*"
"""In a table of names: the module that holds all names not listed."""

MOVED: dict[str, str | dict[str, str]] = {
    "cli.also": "workflows.fit.joint_heads",
    "cli.callbacks": {
        ALL: "callbacks.checkpoints",
        "StepProgress": "callbacks.progress",
        "WritePredictions": "callbacks.results",
    },
    "cli.checkpoint_files": "callbacks.checkpoints",
    "cli.configs": "system.shipped_configs",
    "cli.data_check": "workflows.corpus.check",
    "cli.data_faults": "workflows.corpus.check",
    "cli.data_info": "workflows.corpus.info",
    "cli.demo_heads": "workflows.demo.heads",
    "cli.demo_summary": "workflows.demo.stages",
    "cli.doctor_finding": "workflows.doctor",
    "cli.doctor_installation": "workflows.doctor",
    "cli.doctor_machine": "workflows.doctor",
    "cli.dropped_arguments": "workflows.fit.parser_errors",
    "cli.export_graph": "workflows.export.graph",
    "cli.export_head": "workflows.export.head",
    "cli.hardware": "system.hardware",
    "cli.head_lists": "workflows.fit.joint_heads",
    "cli.head_runs": "workflows.fit.head_runs",
    "cli.head_sources": "workflows.predict.head",
    "cli.head_specs": "workflows.fit.joint_heads",
    "cli.ledger": "system.ledger",
    "cli.lightning_noise": "workflows.fit.messages",
    "cli.lost_process": "workflows.fit.messages",
    "cli.many_runs": "callbacks.joint_heads",
    "cli.model_card": "workflows.export.model_card",
    "cli.name_hints": "system.name_hints",
    "cli.notebook": "workflows.fit",
    "cli.parser_errors": "workflows.fit.parser_errors",
    "cli.peak_memory": "system.peak_memory",
    "cli.plan_assumptions": "workflows.plan.assumptions",
    "cli.plan_cluster": "workflows.plan.cluster",
    "cli.plan_costs": "workflows.plan.costs",
    "cli.plan_labels": "workflows.plan.labels",
    "cli.plan_training": "workflows.plan.training",
    "cli.plugins": "system.plugins",
    "cli.probe": "callbacks.probe",
    "cli.readable_errors": "workflows.fit.messages",
    "cli.recipe_stages": "workflows.recipe.stages",
    "cli.recipes": "workflows.recipe.chain",
    "cli.result_card": "callbacks.results",
    "cli.run_facts": "workflows.export.run_facts",
    "cli.side_by_side": "system.timing",
    "cli.stage_command": "system.command",
    "cli.superb_official": "workflows.superb.official",
    "cli.superb_runs": "workflows.superb.cells",
    "cli.superb_scores": "workflows.superb.benchmark",
    "cli.sweep_file": "workflows.sweep.file",
    "cli.sweep_pruning": "workflows.sweep.pruning",
    "cli.sweep_space": "workflows.sweep.file",
    "cli.sweep_study": "workflows.sweep.study",
    "cli.sweep_table": "workflows.sweep.runs",
    "cli.sweep_trials": {ALL: "workflows.sweep.runs", "locked": "system.files"},
    "cli.trained_heads": {
        ALL: "workflows.predict.recordings",
        "TrainedHead": "workflows.predict.head",
        "load_head": "workflows.predict.head:open_head",
    },
    "cli.training": "workflows.fit.command_line",
    "cli.wandb_logger": "callbacks.wandb",
    "cli.wandb_login": "callbacks.wandb_login",
    "cli.wandb_media": "callbacks.wandb",
    "cli.worker_pool": "system.worker_pool",
    "codebooks.hours": "codebooks.audio_progress",
    "codebooks.parts": {ALL: "codebooks.job_shards", "Part": "codebooks.job_shards:JobShard"},
    "codebooks.processes": "system.worker_pool",
    "data.batching": "data.loading.batching",
    "data.cache_space": {ALL: "data.remote.cache_space", "locked": "system.files"},
    "data.mini.buzz": "data.mini.formant_synth",
    "data.mini.performing": "data.mini.rendering",
    "data.mini.takes": "data.mini.scripted_utterance",
    "data.mixture": "data.loading.mixture",
    "data.passes": "data.loading.shard_order",
    "data.permuted": "data.shuffled_labels",
    "data.resumable": "data.loading.resume",
    "data.safetensors_header": "data.remote.safetensors_header",
    "data.transport": "data.remote.transport",
    "data.whole_files": "system.files",
    "encoder.attention_backends.lane_dropout": "encoder.attention_backends.replayed_dropout",
    "encoder.chunks": "encoder.cpu.chunks",
    "encoder.folded_norm": "encoder.cpu.folded_norm",
    "encoder.from_torchaudio": "encoder.checkpoints.torchaudio",
    "encoder.from_unilm": "encoder.checkpoints.unilm",
    "encoder.huggingface": "encoder.checkpoints.huggingface",
    "encoder.kept": "encoder.cpu.weight_cache",
    "encoder.linear_timing": "encoder.cpu.linear_timing",
    "encoder.linears": "encoder.cpu.linears",
    "encoder.onednn": "encoder.cpu.onednn",
    "encoder.prepared": {ALL: "encoder.cpu.positional", "prepare": "encoder.cpu.inference_prep"},
    "encoder.recomputed_convolution": "encoder.cpu.strided_front_end",
    "encoder.sharded_files": "encoder.checkpoints.sharded_files",
    "encoder.spectral_convolution": "encoder.cpu.spectral_convolution",
    "encoder.strided_products": "encoder.cpu.strided_products",
    "encoder.tensor_files": "encoder.checkpoints.tensor_files",
    "places": "system.paths",
    "pretraining.health_speed": "pretraining.health",
    "pretraining.masking": "augment.span_masking",
    "pretraining.mixing": "augment.mixing",
    "pretraining.schedule": "training.schedules",
    "pretraining.sharding": {
        ALL: "training.fsdp",
        "OLD": "system.files",
        "finish_renaming": "system.files:finish_replacing",
    },
    "progress": "system.progress",
    "reports.folds": "reports.aggregate",
    "reports.pictures": "reports.figures",
    "reports.run_curves": "reports.runs.curves",
    "reports.run_figures": "reports.runs.figures",
    "reports.run_layers": "reports.runs.layers",
    "reports.run_plots": "reports.plots",
    "reports.run_report": "reports.runs.report",
    "reports.run_results": "reports.runs.results",
    "reports.run_rows": "reports.runs.results",
    "reports.run_tables": "reports.runs.tables",
    "reports.run_text": {
        ALL: "reports.runs.text",
        "health_table": "reports.runs.tables",
        "pretraining_cost": "reports.runs.tables",
        "heads_cost": "reports.runs.tables",
        "stages_table": "reports.runs.tables",
    },
    "tasks.beam_search": "tasks.components.beam_search",
    "tasks.bigrams": "tasks.components.bigrams",
    "tasks.compiled_dtw": "tasks.search.compiled_dtw",
    "tasks.dtw_kernels": "tasks.search.compiled_dtw",
    "tasks.emotion_recognition": "tasks.paralinguistics.emotion_recognition",
    "tasks.head_checkpoint": "tasks.checkpoint",
    "tasks.head_hooks": "tasks.joint.head_hooks",
    "tasks.head_trainer": "tasks.joint.head_hooks",
    "tasks.huggingface_encoder": "tasks.huggingface.heads",
    "tasks.huggingface_export": "tasks.huggingface.export",
    "tasks.huggingface_folder": "tasks.huggingface.reading",
    "tasks.huggingface_heads": "tasks.huggingface.heads",
    "tasks.intent_classification": "tasks.semantics.intent_classification",
    "tasks.keyword_spotting": "tasks.content.keyword_spotting",
    "tasks.long_recordings": "workflows.predict.windows",
    "tasks.many_heads": "tasks.joint.many_heads",
    "tasks.many_optimizers": "tasks.joint.many_optimizers",
    "tasks.phoneme_recognition": "tasks.content.phoneme_recognition",
    "tasks.query_by_example": "tasks.content.query_by_example",
    "tasks.recurrent": "tasks.components.recurrent",
    "tasks.shared_batches": "tasks.joint.shared_batches",
    "tasks.slot_filling": "tasks.semantics.slot_filling",
    "tasks.speaker_diarization": "tasks.speaker.speaker_diarization",
    "tasks.speaker_identification": "tasks.speaker.speaker_identification",
    "tasks.speaker_verification": "tasks.speaker.speaker_verification",
    "tasks.spec_augment": "augment.spec_augment",
    "tasks.speech_recognition": "tasks.content.speech_recognition",
    "tasks.spoken_text": "tasks.components.spoken_text",
    "tasks.subsequence_dtw": "tasks.search.subsequence_dtw",
    "tasks.term_search": "tasks.search.term_search",
    "tasks.xvector": "tasks.components.xvector",
    "upstreams.cache_pieces": "upstreams.cache",
}
"""Old module -> new module, both without `wavlm_lightning.`.

Where the names of a module went to several places, a dictionary: old name -> new module, or `module:name` if the name changed
as well, and `ALL` for the others.
"""


class MovedModule(ModuleType):
    """A module of an older version; every public name comes from where it is now, with one warning a name."""

    def __getattr__(self, name: str) -> Any:
        # Tools that look through `sys.modules` ask every module for such names; they must load and warn of nothing.
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module, new_name = new_place(self.__name__, name)
        if module is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        try:
            value = getattr(importlib.import_module(module), new_name)
        except AttributeError:
            raise AttributeError(f"{self.__name__} is now {module}, which has no {new_name!r}") from None
        warnings.warn(
            f"{self.__name__}.{name} is now {module}.{new_name}; the old path will be removed",
            DeprecationWarning,
            stacklevel=2,
        )
        setattr(self, name, value)
        return value


class MovedModuleFinder:
    """Finder and loader of the modules in `MOVED`, with the methods of `importlib.abc.MetaPathFinder` and `Loader`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The specification of an old module, None for any other."""
        package, _, module = name.partition(".")
        if package != PACKAGE or module not in MOVED:
            return None
        # A loader by its methods alone: `importlib.abc` would be one more import of every start.
        return ModuleSpec(name, MovedModuleFinder)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        """An empty module; its names are looked up when they are asked for."""
        return MovedModule(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Nothing to run."""


def new_place(module: str, name: str) -> tuple[str | None, str]:
    """Where a public name of an old module is now.

    Args:
        module: old module, with `wavlm_lightning.`.
        name: of a class, function or constant in it.

    Returns:
        The full path of the new module (None if the name is not in the table), and the name there.
    """
    target = MOVED[module.removeprefix(f"{PACKAGE}.")]
    if isinstance(target, dict):
        found = target.get(name, target.get(ALL))
        if found is None:
            return None, name
        target = found
    place, _, new_name = target.partition(":")
    return f"{PACKAGE}.{place}", new_name or name


def install() -> None:
    """Append the finder to `sys.meta_path`, once."""
    if MovedModuleFinder not in sys.meta_path:
        sys.meta_path.append(MovedModuleFinder)
