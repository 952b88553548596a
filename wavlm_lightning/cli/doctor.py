"""`wavlm doctor`: says in plain words what is wrong with an installation and how to mend it; reaches no network."""

import argparse
import json
from dataclasses import asdict

from wavlm_lightning.workflows.doctor_finding import Check, Finding, first_line
from wavlm_lightning.workflows.doctor_installation import (
    check_audio,
    check_corpus_extra,
    check_lightning,
    check_packages,
    check_python,
    check_torch,
)
from wavlm_lightning.workflows.doctor_machine import (
    check_cache,
    check_cores,
    check_device,
    check_disk,
    check_memory,
    check_wandb,
)

CHECKS: tuple[Check, ...] = (
    check_python, check_torch, check_packages, check_lightning, check_corpus_extra, check_audio,
    check_device, check_cores, check_memory, check_disk, check_cache, check_wandb,
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Runs every check and prints one line a finding.

    Args:
        argv: the arguments after `wavlm doctor`.

    Returns:
        0 if nothing failed, 1 otherwise; warnings do not fail.
    """
    parser = argparse.ArgumentParser(prog="wavlm doctor", description="Checks this installation, without any network.")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments = parser.parse_args(argv)
    findings = examine()
    failed = sum(finding.status == "FAIL" for finding in findings)
    if arguments.json:
        print(json.dumps({"ok": failed == 0, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            print(f"{finding.status:4}  {finding.check:{width}}  {finding.message}")
        warned = sum(finding.status == "warn" for finding in findings)
        print(f"\n{failed} failed, {warned} to look at." if failed or warned else "\nEverything is in order.")
    return 1 if failed else 0


def examine(checks: tuple[Check, ...] | None = None) -> list[Finding]:
    """Runs the checks one by one; one that breaks is reported and stops no other."""
    findings = []
    for check in CHECKS if checks is None else checks:
        try:
            findings += list(check())
        except Exception as error:
            name = check.__name__.removeprefix("check_").replace("_", " ")
            findings.append(Finding(name, "warn", f"could not be checked: {first_line(error)}"))
    return findings
