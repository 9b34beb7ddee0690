"""The optimizer of PyTorch's kind around a rule that is written in JAX."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports] - optional
from torch import nn  # pyright: ignore[reportMissingImports] - optional

from learned_opt.architectures.options import path_matcher
from learned_opt.architectures.spectral import EMBEDDINGS
from learned_opt.torch.cohort import Cohort, Member, begin, saved, take_step
from learned_opt.torch.layout import axes, names_of, owners
from learned_opt.torch.rule import rule
from learned_opt.torch.views import argument, checked_tensor

FORMAT = 1  # of the state that a state dict holds
KEY = "learned_opt"  # under which it is found there, beside those of parameters


class Optimizer(torch.optim.Optimizer):
    """A learned optimizer, or an optax transformation, as a `torch.optim.Optimizer`.

    `step` runs the jitted JAX update on the memory of the parameters and of their gradients, and adds what it
    returns to the parameters. The state stays in JAX, and on the device of the parameters.

    The rate `lr` of a group, 1 at first, is a factor on what the optimizer has learned; `weight_decay` of a
    group replaces the weight decay of a trained optimizer that has one, None leaves it.

    Parameters that have their first gradient in the same step are optimized together: they share a state, and
    statistics over all tensors are over them. Those that come later begin with what is left of num_steps. One
    without a gradient is not moved; the others' step sees it with the gradient zero.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        optimizer: Any,
        *,
        num_steps: int | None = None,
        learning_rate: float = 1.0,
        weight_decay: float | None = None,
        schedule: Any = "learned",
        model: nn.Module | None = None,
        outputs_last: str = EMBEDDINGS,
    ) -> None:
        """Makes the optimizer; nothing is compiled before the first step.

        Args:
          params: a model; or `model.named_parameters()`, `model.parameters()`, or groups of them, dicts with
            `params` and perhaps `lr` and `weight_decay`.
          optimizer: a trained optimizer, by the name that `learned_opt.load` takes ("pretrained:general"); a
            pair of a LearnedOptimizer and its theta; or an optax transformation.
          num_steps: the number of steps of the training; not needed by every optimizer.
          learning_rate: `lr` of the groups that have none, relative to what was learned; >= 0.
          weight_decay: of the groups that have none; >= 0, or None for the optimizer's own.
          schedule: as of `learned_opt.load`; None if a scheduler of PyTorch is to be the only one.
          model: the model that the parameters are of, which says what is a linear layer, a convolution or an
            embedding, and all names; not needed if `params` is a model.
          outputs_last: regular expression, searched in names, case ignored: parameters whose last axis is
            their outputs, embeddings among them. Of all others the first one is. It does not count for
            layers of `torch.nn` in `model`, whose layout is known.

        Raises:
          ArtefactError: see `learned_opt.read`.
          TypeError, ValueError: an argument, or an option of a group, that the message names.
        """
        if isinstance(params, nn.Module):
            model, params = params, params.named_parameters()
        path_matcher("outputs_last", outputs_last, ".")  # refuses what is not a regular expression
        self._rule = rule(optimizer, num_steps, schedule)
        self._owners = {} if model is None else owners(model)
        self._outputs_last = outputs_last
        self._cohorts: list[Cohort] = []
        self._steps = 0
        super().__init__(params, {"lr": learning_rate, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, whose parameters begin at their first gradient with what is left of num_steps."""
        super().add_param_group(param_group)
        try:
            group = self.param_groups[-1]
            rate = float(group["lr"])
            if not (rate >= 0 and math.isfinite(rate)):
                raise ValueError(f"the learning rate must be >= 0, a factor on what was learned, got {rate}")
            self._rule.build(self._rule.num_steps, group["weight_decay"])
            for member in self._members()[-len(group["params"]) :]:
                if member.param.requires_grad:
                    checked_tensor(member.name, member.param)
        except Exception:
            self.param_groups.pop()
            raise

    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        """One step of all parameters that have a gradient.

        Args:
          closure: computes the loss and its gradients, and returns the loss.
          loss: the loss whose gradients the parameters have, a tensor of one element or a number; for
            optimizers that look at it, in place of a closure.

        Returns:
          What the closure returned, or None.

        Raises:
          ValueError: the optimizer needs the loss and has none; a gradient is sparse; see `checked_tensor`.
        """
        returned = None
        if closure is not None:
            if loss is not None:
                raise ValueError("step takes a closure or loss=..., not both")
            with torch.enable_grad():
                returned = loss = closure()
        due = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if due:
            value, groups = self._value(loss), self._groups()
            self._begin(due)
            for i, cohort in enumerate(self._cohorts):
                if any(p.grad is not None for p in cohort.params):
                    rates = [float(groups[j]["lr"]) for j in cohort.index]
                    decays = tuple(groups[j]["weight_decay"] for j in cohort.index)
                    self._cohorts[i] = take_step(cohort, rates, decays, value)
            self._steps += 1
        return returned

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's dictionary: groups, and under "learned_opt" in "state" the state, numbers and tensors."""
        found = super().state_dict()
        cohorts = [saved(cohort) for cohort in self._cohorts]
        found["state"][KEY] = {"format": FORMAT, "steps": self._steps, "cohorts": cohorts}
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from `state_dict`, of the same optimizer on parameters of the same order, in all bits.

        Raises:
          ValueError: the state is of another optimizer, of other parameters, or of a newer format; then
            nothing has changed.
        """
        before = self.param_groups
        super().load_state_dict(state_dict)
        content: Any = dict[Any, Any](self.state).get(KEY)
        self.state.clear()
        try:
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError(f"the state dict is not one of learned_opt.torch, format {FORMAT}")
            members = self._members()
            cohorts = []
            for entry in content["cohorts"]:
                chosen = [members[i] for i in entry["params"]]
                cohort = begin(self._rule, chosen, entry["num_steps"], entry["state"])
                if cohort.index != entry["params"]:
                    raise ValueError(
                        "the parameters have other names than those of the state, in another order"
                    )
                cohorts.append(cohort)
        except Exception:
            self.param_groups = before
            raise
        self._cohorts, self._steps = cohorts, content["steps"]

    def __getstate__(self) -> dict[str, Any]:
        """Refuses: a compiled update can be neither pickled nor copied."""
        raise TypeError("this optimizer cannot be pickled or copied: save its state_dict()")

    def _members(self) -> list[Member]:
        """All parameters, in PyTorch's order."""
        params = [p for group in self.param_groups for p in group["params"]]
        names = names_of(self.param_groups, self._owners)
        found = []
        for i, (p, name) in enumerate(zip(params, names, strict=True)):
            owner = self._owners[id(p)][1] if id(p) in self._owners else None
            found.append(Member(p, i, name, axes(p, name, owner, self._outputs_last)))
        return found

    def _groups(self) -> list[dict[str, Any]]:
        """The group of each parameter."""
        return [group for group in self.param_groups for _ in group["params"]]

    def _begin(self, due: list[torch.Tensor]) -> None:
        """Makes a cohort of those that have their first gradient; refuses what cannot be stepped."""
        devices = {id(p): cohort.device for cohort in self._cohorts for p in cohort.params}
        for p in due:
            if p.grad is not None and p.grad.layout is not torch.strided:
                raise ValueError(f"a parameter of shape {list(p.shape)} has a sparse gradient, must be dense")
            if devices.get(id(p), p.device) != p.device:
                raise ValueError(
                    f"a parameter moved from {devices[id(p)]} to {p.device} after its first step: make the "
                    "optimizer after model.to(...), and load the state dict"
                )
        if all(id(p) in devices for p in due):
            return
        new = [m for m in self._members() if m.param.grad is not None and id(m.param) not in devices]
        total = self._rule.num_steps
        self._cohorts.append(begin(self._rule, new, None if total is None else max(1, total - self._steps)))

    def _value(self, loss: Any) -> Any:
        if self._rule.value == "ignored":
            return None
        if loss is None:
            if self._rule.value == "needed":
                raise ValueError(
                    f"{self._rule.name} needs the training loss: call step(loss=loss) or step(closure)"
                )
            return None
        if not isinstance(loss, torch.Tensor):
            return np.float32(loss)
        if loss.numel() != 1:
            raise ValueError(f"the loss has the shape {list(loss.shape)}, must be one number")
        device = self.param_groups[0]["params"][0].device
        return argument(loss.detach().reshape(()).to(device, torch.float32))
