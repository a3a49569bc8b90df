"""What an evaluation has no number for yet, and the command that would make it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from typing import get_args

from ml.report.names import ACTIONS, SPLITS, system_name
from ml.settings import MoreSystem, Settings

NO_SEARCHES = "the same as Recformer here: purchases alone hold no search"


def missing_systems(settings: Settings, category: str, actions: str, present: Collection[str]) -> list[dict[str, str]]:
    """Return the systems without a row in a view: `name`, `why`, and `command` ("" where none is needed)."""
    have, known = set(present), get_args(MoreSystem)
    rows = []
    if settings.recommendations.order == "fusion" and not settings.evaluation.mixup and "ours_mixup" not in have:
        command = f"HEMLINE_EVALUATION__MIXUP=true {evaluate(settings, category)}"
        rows.append({"name": system_name("ours_mixup", {"ours_mixup"}), "why": "not run", "command": command})
    for name in known:
        if name in have:
            continue
        if name == "recformer_queries" and actions == "purchases_only":
            rows.append({"name": system_name(name, have), "why": NO_SEARCHES, "command": ""})
        elif name in settings.evaluation.more_systems:
            rows.append(
                {"name": system_name(name, have), "why": "not finished", "command": evaluate(settings, category)}
            )
        else:
            wanted = [more for more in known if more in {*have, *settings.evaluation.more_systems, name}]
            command = f"{_list('MORE_SYSTEMS', wanted)} {evaluate(settings, category)}"
            rows.append({"name": system_name(name, have), "why": "not run", "command": command})
    return rows


def missing_views(settings: Settings, category: str, present: Collection[tuple[str, str]]) -> list[dict[str, str]]:
    """Return the ways to look at a category that have no row: `name` and `command`."""
    rows, evaluation = [], settings.evaluation
    for split in SPLITS:
        for actions in ACTIONS:
            if (split, actions) in present:
                continue
            changes = []
            if split not in evaluation.splits:
                changes.append(_list("SPLITS", [*evaluation.splits, split]))
            if actions not in evaluation.actions:
                changes.append(_list("ACTIONS", [*evaluation.actions, actions]))
            command = " ".join([*changes, evaluate(settings, category)])
            rows.append({"name": f"{SPLITS[split]}, {ACTIONS[actions]}", "command": command})
    return rows


def evaluate(settings: Settings, category: str) -> str:
    """Return the command that evaluates a category and writes the page anew."""
    return settings.command(f"evaluate --category {shlex.quote(category)} --report")


def every_system(settings: Settings, category: str) -> str:
    """Return the command that evaluates a category with every system there is."""
    return f"{_list('MORE_SYSTEMS', get_args(MoreSystem))} {evaluate(settings, category)}"


def _list(setting: str, values: Sequence[str]) -> str:
    """Return a setting of `evaluation` as the shell gives it to a command; what was there before stays in it."""
    return f"HEMLINE_EVALUATION__{setting}={shlex.quote('[' + ', '.join(values) + ']')}"
