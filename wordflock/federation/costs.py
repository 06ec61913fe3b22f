"""What a federation costs each of its devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Message

from wordflock.federation.messages import metric, payload_bytes
from wordflock.federation.roster import Client
from wordflock.federation.wire import MalformedMessage


class Costs:
    """What a round's messages cost each client, added up as the replies come."""

    def __init__(self) -> None:
        self._by_client: dict[int, dict[str, Any]] = {}

    def add(self, client: Client, request: Message, reply: Message) -> None:
        """Count one message and its reply in."""
        cost = cost_of(client, reply, payload_bytes(reply), payload_bytes(request))
        before = self._by_client.setdefault(client.number, cost)
        if before is not cost:
            before |= {key: before[key] + cost[key] for key in ("bytes_up", "bytes_down")}
            before["seconds"] = _of_both(before["seconds"], cost["seconds"], sum)
            before["peak_memory"] = _of_both(before["peak_memory"], cost["peak_memory"], max)

    def of(self, clients: Iterable[Client]) -> list[dict[str, Any]]:
        """What it cost these clients, in their order."""
        return [self._by_client[client.number] for client in clients]


def cost_of(client: Client, reply: Message, bytes_up: int, bytes_down: int) -> dict[str, Any]:
    """What one round cost one client, as far as it said so."""
    cost: dict[str, Any] = {
        "client": client.number,
        "name": client.name,
        "processor": client.processor,
        "encode_seconds": client.encode_seconds,  # once, before it came
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "clips": client.clips,
    }
    for name, key in {"seconds": "seconds", "peak_memory": "peak-memory"}.items():
        try:
            cost[name] = metric(reply, key)
        except MalformedMessage:
            cost[name] = None
    return cost


def sum_costs(history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What all rounds together cost each client: one entry a client, in the order of their numbers."""
    rounds: dict[int, list[dict[str, Any]]] = {}
    for line in history:
        for cost in line.get("costs", []):
            rounds.setdefault(cost["client"], []).append(cost)
    summed = []
    for number, costs in sorted(rounds.items()):
        known = [cost for cost in costs if cost["seconds"] is not None]
        summed.append(
            {
                "client": number,
                "name": costs[-1]["name"],
                "processor": costs[-1]["processor"],
                "rounds": len(costs),
                "clips": costs[-1]["clips"],
                # One that was restarted found its clips encoded.
                "encode_seconds": max(cost["encode_seconds"] for cost in costs),
                "train_seconds_per_round": sum(cost["seconds"] for cost in known) / len(known) if known else None,
                "bytes_up": sum(cost["bytes_up"] for cost in costs),
                "bytes_down": sum(cost["bytes_down"] for cost in costs),
                "peak_memory": max((cost["peak_memory"] or 0 for cost in costs), default=0),
            }
        )
    return summed


def sum_seconds(history: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """What the rounds of a simulation cost each client, by its number: rounds, seconds a round, and the bytes that a
    device would send and receive. Clients share one process, so no client has a memory of its own."""
    summed: dict[int, dict[str, Any]] = {}
    for line in history:
        for number, seconds in zip(line["clients"], line.get("client_seconds", ()), strict=False):
            cost = summed.setdefault(number, {"rounds": 0, "train_seconds": 0.0, "bytes_up": 0, "bytes_down": 0})
            more = {
                "rounds": 1,
                "train_seconds": seconds or 0.0,
                **{key: line[key] for key in ("bytes_up", "bytes_down")},
            }
            cost |= {key: cost[key] + value for key, value in more.items()}
    for cost in summed.values():
        cost["train_seconds_per_round"] = cost.pop("train_seconds") / cost["rounds"]
    return summed


def format_costs(summed: Sequence[Mapping[str, Any]]) -> str:
    """The table that is shown at the end, in 80 columns where the processor's name is short."""
    rows = [["client", "rounds", "clips", "encode s", "train s", "up KB", "down KB", "peak MB", "on"]]
    for cost in summed:
        rows.append(
            [
                f"{cost['client']} {cost['name']}".strip(),
                f"{cost['rounds']}",
                f"{cost['clips']}",
                _figure(cost["encode_seconds"]),
                _figure(cost["train_seconds_per_round"]),
                f"{cost['bytes_up'] / cost['rounds'] / 1e3:.0f}",
                f"{cost['bytes_down'] / cost['rounds'] / 1e3:.0f}",
                f"{cost['peak_memory'] / 1e6:.0f}",
                cost["processor"],
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(width) for c, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["client costs; to train, up and down: by round", *lines])


def _of_both(one: float | None, other: float | None, kind: Callable[[list[float]], float]) -> float | None:
    return None if one is None or other is None else kind([one, other])


def _figure(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds:.1f}"
