"""`wavlm doctor`: check this installation and say in plain words what is wrong and how to repair it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm doctor`."""
    parser = argparse.ArgumentParser(prog="wavlm doctor", description="Checks this installation, without any network.")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def main(argv: list[str]) -> int:
    """Run every check and print one line per finding; returns 1 if one failed (a warning does not fail), else 0."""
    arguments = build_parser().parse_args(argv)

    from wavlm_lightning.workflows.doctor import examine

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
