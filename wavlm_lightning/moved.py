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

ALL = "*"  # in a table of names: the module that holds all names not listed
KEPT_NAME: dict[str, str] = {  # old and new path: names that stand for the * in both
    "cli.* system.*": "hardware ledger name_hints peak_memory plugins worker_pool",
    "cli.* workflows.fit.*": "head_runs parser_errors",
    "cli.* workflows.export.*": "model_card run_facts",
    "cli.* callbacks.*": "probe wandb_login",
    "cli.data_* workflows.corpus.*": "check info",
    "cli.export_* workflows.export.*": "graph head",
    "cli.plan_* workflows.plan.*": "assumptions cluster costs labels training",
    "cli.sweep_* workflows.sweep.*": "file pruning study",
    "data.* data.loading.*": "batching mixture",
    "data.* data.remote.*": "safetensors_header transport",
    "data.mini.* data.mini.synthesis.*": "espeak formant_synth phones speech synthesiser voices",
    "encoder.* encoder.checkpoints.*": "huggingface sharded_files tensor_files",
    "encoder.* encoder.cpu.*": "chunks folded_norm linear_timing linears onednn spectral_convolution strided_products",
    "reports.run_* reports.runs.*": "curves figures layers report results tables",
    "tasks.* tasks.components.*": "beam_search recurrent spoken_text xvector",
    "tasks.* tasks.content.*": "keyword_spotting phoneme_recognition query_by_example",
    "tasks.huggingface_* tasks.huggingface.*": "export heads",
    "tasks.* tasks.joint.*": "head_hooks many_heads",
    "tasks.* tasks.search.*": "compiled_dtw subsequence_dtw term_search",
    "tasks.* tasks.semantics.*": "intent_classification slot_filling",
    "tasks.* tasks.speaker.*": "speaker_diarization speaker_identification speaker_verification",
}
MOVED: dict[str, str | dict[str, str]] = {  # old module: new module, both without `wavlm_lightning.`
    # Where names went to several modules: old name -> new module, or `module:name` if the name changed as well.
    "cli.also": "workflows.fit.joint_heads",
    "cli.callbacks": {
        ALL: "callbacks.checkpoints",
        "StepProgress": "callbacks.progress",
        "WritePredictions": "callbacks.results",
    },
    "cli.checkpoint_files": "callbacks.checkpoints",
    "cli.configs": "system.shipped_configs",
    "cli.data_faults": "workflows.corpus.check",
    "cli.demo_heads": "workflows.demo.heads",
    "cli.demo_summary": "workflows.demo.stages",
    "cli.doctor_finding": "workflows.doctor",
    "cli.doctor_installation": "workflows.doctor",
    "cli.doctor_machine": "workflows.doctor",
    "cli.dropped_arguments": "workflows.fit.parser_errors",
    "cli.head_lists": "workflows.fit.joint_heads",
    "cli.head_sources": "workflows.predict.head",
    "cli.head_specs": "workflows.fit.joint_heads",
    "cli.lightning_noise": "workflows.fit.messages",
    "cli.lost_process": "workflows.fit.messages",
    "cli.many_runs": "callbacks.joint_heads",
    "cli.notebook": "workflows.fit",
    "cli.readable_errors": "workflows.fit.messages",
    "cli.recipe_stages": "workflows.recipe.stages",
    "cli.recipes": "workflows.recipe.chain",
    "cli.result_card": "callbacks.results",
    "cli.side_by_side": "system.timing",
    "cli.stage_command": "system.command",
    "cli.superb_official": "workflows.superb.official",
    "cli.superb_runs": {
        ALL: "workflows.superb.cells",
        **dict.fromkeys(("COST", "official_rates", "check_tasks"), "workflows.superb.suites"),
    },
    "cli.superb_scores": "workflows.superb.benchmark",
    "cli.sweep_space": "workflows.sweep.file",
    "cli.sweep_table": "workflows.sweep.runs",
    "cli.sweep_trials": {ALL: "workflows.sweep.runs", "locked": "system.files"},
    "cli.trained_heads": {
        ALL: "workflows.predict.recordings",
        "TrainedHead": "workflows.predict.head",
        "load_head": "workflows.predict.head:open_head",
    },
    "cli.training": "workflows.fit.command_line",
    "cli.wandb_logger": "callbacks.wandb",
    "cli.wandb_media": "callbacks.wandb",
    "codebooks.hours": "codebooks.audio_progress",
    "codebooks.parts": {ALL: "codebooks.job_shards", "Part": "codebooks.job_shards:JobShard"},
    "codebooks.processes": {ALL: "system.worker_pool", "default_jobs": "system.worker_pool:run_count"},
    "data.cache_space": {ALL: "data.remote.cache_space", "locked": "system.files"},
    "data.mini.buzz": "data.mini.synthesis.formant_synth",
    "data.mini.performing": "data.mini.rendering",
    "data.mini.takes": "data.mini.scripted_utterance",
    "data.passes": "data.loading.shard_order",
    "data.permuted": "data.shuffled_labels",
    "data.resumable": "data.loading.resume",
    "data.whole_files": "system.files",
    "encoder.attention_backends.lane_dropout": "encoder.attention_backends.replayed_dropout",
    "encoder.dropped_layer": "encoder.transformer",
    "encoder.from_torchaudio": "encoder.checkpoints.torchaudio",
    "encoder.from_unilm": "encoder.checkpoints.unilm",
    "encoder.kept": "encoder.cpu.weight_cache",
    "encoder.prepared": "encoder.cpu.inference_prep",
    "encoder.recomputed_convolution": "encoder.cpu.strided_front_end",
    "places": "system.paths",
    "pretraining.health_speed": "pretraining.health",
    "pretraining.masking": "augment.span_masking",
    "pretraining.mixing": "augment.mixing",
    "pretraining.schedule": "training.optimizers",
    "pretraining.scores": "pretraining.objectives.masked_prediction",
    "pretraining.sharding": {
        ALL: "training.fsdp",
        "OLD": "system.files",
        "finish_renaming": "system.files:finish_replacing",
    },
    "progress": "system.progress",
    "reports.folds": "reports.aggregate",
    "reports.pictures": "reports.figures",
    "reports.run_plots": "reports.plots",
    "reports.run_rows": "reports.runs.results",
    "reports.run_text": {
        ALL: "reports.runs.text",
        **dict.fromkeys(("health_table", "pretraining_cost", "heads_cost", "stages_table"), "reports.runs.tables"),
    },
    "tasks.bigrams": "tasks.components.ngrams",
    "tasks.components.bigrams": "tasks.components.ngrams",
    "tasks.dtw_kernels": "tasks.search.compiled_dtw",
    "tasks.emotion_recognition": "tasks.paralinguistics.emotion_recognition",
    "tasks.head_checkpoint": {ALL: "tasks.checkpoint", "PROCESSING": "tasks.contract"},
    "tasks.head_trainer": "tasks.joint.head_hooks",
    "tasks.huggingface_encoder": "tasks.huggingface.heads",
    "tasks.huggingface_folder": "tasks.huggingface.reading",
    "tasks.long_recordings": "tasks.windows",
    "workflows.predict.windows": "tasks.windows",
    "tasks.many_optimizers": "tasks.joint.many_heads",
    "tasks.partly_cached": "tasks.utterances",
    "tasks.shared_batches": {ALL: "tasks.joint.shared_batches", "tasks_of": "tasks.contract"},
    "tasks.spec_augment": "augment.spec_augment",
    "tasks.speech_recognition": {
        ALL: "tasks.content.letters",
        "SpeechRecognition": "tasks.content.speech_recognition",
    },
    "upstreams.cache_pieces": "upstreams.cache",
}
MOVED |= dict(paths.replace("*", name).split() for paths, names in KEPT_NAME.items() for name in names.split())


class MovedModule(ModuleType):
    """A module of an older version; every public name comes from where it is now, with one warning a name."""

    def __getattr__(self, name: str) -> Any:
        target = MOVED[self.__name__.removeprefix(f"{PACKAGE}.")]
        if isinstance(target, dict):
            target = target.get(name, target.get(ALL, ""))
        # Tools that look through `sys.modules` ask every module for private names; they must load and warn of nothing.
        if name.startswith("_") or not target:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        place, _, new_name = target.partition(":")
        module, new_name = f"{PACKAGE}.{place}", new_name or name
        try:
            value = getattr(importlib.import_module(module), new_name)
        except AttributeError:
            raise AttributeError(f"{self.__name__} is now {module}, which has no {new_name!r}") from None
        said = f"{self.__name__}.{name} is now {module}.{new_name}; the old path will be removed"
        warnings.warn(said, DeprecationWarning, stacklevel=2)
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


def install() -> None:
    """Append the finder to `sys.meta_path`, once."""
    if MovedModuleFinder not in sys.meta_path:
        sys.meta_path.append(MovedModuleFinder)
