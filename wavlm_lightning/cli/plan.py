"""`wavlm plan CONFIG`: the cost of a recipe before anything is started."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from wavlm_lightning.system.arguments import positive, share, whole
from wavlm_lightning.system.files import check_output, write_text


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="wavlm plan",
        description="Cost of a pre-training recipe, from labels to export and fine-tuning: memory, updates, operations, hours.",
    )
    parser.add_argument("configuration", help="a name in configs/pretrain (wavlm_base), or a path ending in .yaml")
    parser.add_argument("--gpus", type=whole, metavar="N", help="processes (default: those of the configuration)")
    parser.add_argument("--gpu", help="kind of GPU: a100, h100, ... (default: that of the configuration)")
    parser.add_argument("--mfu", type=share, default=0.25, help="share of the GPU's peak, 0 to 1 (default 0.25)")
    parser.add_argument("--hours", type=positive, metavar="H", help="audio of your corpus (default: as published)")
    parser.add_argument("--memory", type=positive, default=64.0, metavar="GIB", help="for k-means (default 64 GiB)")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.add_argument("--cluster", choices=("slurm", "torchrun"), help="scripts that train it, instead of its cost")
    parser.add_argument("--nodes", type=whole, metavar="N", help="machines (default: one per 8 GPUs)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, help="folder for the scripts")
    where.add_argument("--print", action="store_true", help="print the scripts instead (default without --out)")
    return parser


def main(argv: list[str]) -> int:
    """Print the cost, or write the scripts."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.cluster is None and (arguments.nodes or arguments.out or arguments.print):
        parser.error("--nodes, --out and --print go with --cluster; give it, too")
    if arguments.cluster is not None and arguments.json:
        parser.error("--json is of the cost, and --cluster prints scripts; remove one of the two")

    if arguments.out is not None:
        check_output(arguments.out)
    from wavlm_lightning.workflows.plan import Assumptions, cluster_files, fine_tuning_plans, plan
    from wavlm_lightning.workflows.plan.text import as_json, as_text

    assumptions = Assumptions(arguments.mfu, arguments.gpus, arguments.gpu, arguments.hours, arguments.memory)
    plans = plan(arguments.configuration, assumptions)
    if arguments.cluster is None:
        tuned = fine_tuning_plans(arguments.configuration, assumptions)
        print(as_json(plans, assumptions, tuned) if arguments.json else as_text(plans, assumptions, tuned))
        return 0
    for name, content in cluster_files(arguments.cluster, arguments.configuration, plans[-1], arguments.nodes).items():
        if arguments.out is None:
            print(content, end="")
        else:
            arguments.out.mkdir(parents=True, exist_ok=True)
            write_text(arguments.out / name, content)
            print(arguments.out / name)
    for remark in plans[-1].training.remarks:
        print(f"note: {remark}", file=sys.stderr)
    return 0
