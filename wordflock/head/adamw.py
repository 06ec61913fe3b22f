"""AdamW (Loshchilov and Hutter, arXiv 1711.05101): torch's own arithmetic, without the classes of `torch.optim`.

The first `torch.optim.Optimizer` in a process imports torch's compiler, which takes a second or two on a fast machine,
many on a small board, and nothing here compiles an optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class AdamW:
    """Each group has "params", "lr" and "weight_decay"; "lr" may be changed between steps."""

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        self.param_groups = list(groups)
        self._state: dict[int, dict[str, Tensor]] = {}  # by a parameter's place among all

    def forget(self) -> None:
        """Be as if it had just been made, but for what its groups say."""
        self._state.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self._parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter that has a gradient."""
        first = 0
        for group in self.param_groups:
            moved = [(first + place, p) for place, p in enumerate(group["params"]) if p.grad is not None]
            first += len(group["params"])
            slots = [self._slots(place, parameter) for place, parameter in moved]
            adamw(
                [parameter for _, parameter in moved],
                [parameter.grad for _, parameter in moved],
                [slot["exp_avg"] for slot in slots],
                [slot["exp_avg_sq"] for slot in slots],
                [],
                [slot["step"] for slot in slots],
                fused=True,
                amsgrad=False,
                beta1=BETA1,
                beta2=BETA2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=EPSILON,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """What it remembers of each parameter, under "state", as `torch.optim.AdamW` has it."""
        return {"state": self._state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        places = dict(enumerate(self._parameters()))
        self._state = {
            place: {key: value.to(places[place].device) for key, value in slots.items()}
            for place, slots in state["state"].items()
        }

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _slots(self, place: int, parameter: Tensor) -> dict[str, Tensor]:
        if place not in self._state:
            zeros = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            self._state[place] = {"step": torch.zeros((), device=parameter.device), **zeros}
        return self._state[place]
