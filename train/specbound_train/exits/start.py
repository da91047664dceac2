"""Where the training of a perceptron begins: at the linear map that says best what the full model's last norm gives.

The raw exit, at which a module stands when it is made, is sure of wrong tokens on a pretrained model. The map is solved
by ridge regression on the first positions of the text; strength and scale are those of the least loss on others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from specbound.decoding.model.exit_modules import ExitModule
from specbound_train.exits.config import TrainExitsConfig
from specbound_train.exits.losses import Target
from specbound_train.exits.students import CHUNK_ROWS, RAW_START, Teacher
from specbound_train.exits.text import Text, batches
from specbound_train.exits.training import drawn_distances, layer_of, padded

# n positions, D hidden width, R inputs of the map: D or 2 D

MOST_POSITIONS, SHARE, LEAST_POSITIONS = 32_768, 0.1, 256
"""Positions that the map is solved on: at most so many and such a share of the training, but so many at least."""
JUDGING, MOST_JUDGING = 4, 1024
"""One of so many of them judges, at most so many in all."""
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Added to the inputs' second moments, whose mean is 1."""
SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Of the norm's weight: a map that is seldom right must not be sure."""
SMALL = 1e-3
"""Weights of the norm below which a dimension says nothing."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """What modules read at some positions, and what the full model makes of them."""

    hidden: dict[int, Tensor]
    """Exit layer -> (n, D) float32"""
    state: Tensor
    """(n, D) float32"""
    distances: Tensor
    """(n,) int64"""
    final: Tensor
    """After the model's last layer. (n, D), in its own format"""

    def part(self, chosen: slice) -> "_Rows":
        hidden = {layer: values[chosen] for layer, values in self.hidden.items()}
        return _Rows(hidden, self.state[chosen], self.distances[chosen], self.final[chosen])


@torch.no_grad()
def start_students(students: nn.ModuleDict, teacher: Teacher, text: Text, config: TrainExitsConfig) -> None:
    """Sets the first weights of all perceptrons but those that are to begin at the raw exit."""
    chosen = {
        name: module
        for name, module in students.items()
        if isinstance(module, ExitModule) and module.shape.kind == "mlp" and not name.startswith(RAW_START)
    }
    if not chosen:
        return
    rows = _first_rows(teacher, text, config)
    border = len(rows.final) - min(len(rows.final) // JUDGING, MOST_JUDGING)
    fitted, judged = rows.part(slice(border)), rows.part(slice(border, None))
    logits = [teacher.logits(part) for part in judged.final.split(CHUNK_ROWS)]
    targets = [Target(part, teacher.ids) for part in logits]
    for name, module in chosen.items():
        _start(module, layer_of(name), fitted, judged, targets, teacher, config.loss)


def _first_rows(teacher: Teacher, text: Text, config: TrainExitsConfig) -> _Rows:
    """The first positions that are trained on, at distances drawn as there."""
    most = max(LEAST_POSITIONS, min(MOST_POSITIONS, int(SHARE * config.num_tokens)))
    parts, found = list[_Rows](), 0
    for step, pieces in enumerate(batches(text.training, config)):
        ids, weights = (values.to(teacher.adapter.device) for values in padded(pieces))
        states = teacher.states(ids)
        row, place = (weights > 0).nonzero(as_tuple=True)
        distances = drawn_distances(place, config, step)
        hidden = {layer: states[layer][row, place].float() for layer in teacher.exit_layers}
        parts.append(_Rows(hidden, states[0][row, place - distances].float(), distances, states[0][row, place]))
        found += len(row)
        if found >= most:
            break
    whole = _Rows(
        {layer: torch.cat([part.hidden[layer] for part in parts]) for layer in teacher.exit_layers},
        torch.cat([part.state for part in parts]),
        torch.cat([part.distances for part in parts]),
        torch.cat([part.final for part in parts]),
    )
    return whole.part(slice(most))


def _start(
    module: ExitModule,
    exit_layer: int,
    fitted: _Rows,
    judged: _Rows,
    targets: list[Target],
    teacher: Teacher,
    loss: str,
) -> None:
    """Takes the strength and the scale with the least loss, the raw exit among them."""
    norm_weight = module.norm.weight.detach().clone()
    inputs, wanted = _inputs(module, exit_layer, fitted), _wanted(teacher, fitted.final, norm_weight)
    best = _loss(module, exit_layer, judged, targets, teacher, loss), {k: v.clone() for k, v in _weights(module)}
    for matrix in _solved(inputs, wanted):
        _set(module, matrix)
        for scale in SCALES:
            module.norm.weight.copy_(scale * norm_weight)
            found = _loss(module, exit_layer, judged, targets, teacher, loss)
            if found < best[0]:
                best = found, {name: values.clone() for name, values in _weights(module)}
    for name, values in _weights(module):
        values.copy_(best[1][name])


def _weights(module: ExitModule) -> Iterator[tuple[str, Tensor]]:
    return ((name, p.detach()) for name, p in module.named_parameters() if name.split(".")[0] in _SET)


_SET = ("of_hidden", "of_state", "norm")


def _inputs(module: ExitModule, exit_layer: int, rows: _Rows) -> Tensor:
    """(n, R)"""
    read = [module.hidden_norm(rows.hidden[exit_layer])]
    return torch.cat([*read, module.state_norm(rows.state)] if module.shape.reads_state else read, dim=1)


def _wanted(teacher: Teacher, final: Tensor, norm_weight: Tensor) -> Tensor:
    """What a module's norm must be given, for the head to read what it reads of the full model. (n, D)"""
    norm = teacher.adapter.final_norm
    read = final if norm is None else norm(final.unsqueeze(0))[0]
    return torch.where(norm_weight.abs() > SMALL, read.float() / norm_weight, 0.0)


def _solved(inputs: Tensor, wanted: Tensor) -> Iterator[Tensor]:
    """The map (R, D) for each of `RIDGES`."""
    x, y = inputs.double(), wanted.double()
    moments, products = x.T @ x / len(x), x.T @ y / len(x)
    identity = torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    for ridge in RIDGES:
        yield torch.linalg.solve(moments + ridge * identity, products).float()


def _set(module: ExitModule, matrix: Tensor) -> None:
    size = module.shape.hidden_size
    module.of_hidden.weight.copy_(matrix[:size].T)  # type: ignore[operator]
    if module.shape.reads_state:
        module.of_state.weight.copy_(matrix[size:].T)  # type: ignore[operator]


def _loss(
    module: ExitModule, exit_layer: int, rows: _Rows, targets: list[Target], teacher: Teacher, loss: str
) -> float:
    """Mean loss of the module as it is."""
    total, first = 0.0, 0
    for target in targets:
        part = rows.part(slice(first, first + len(target.best)))
        output = module(part.hidden[exit_layer], part.state, part.distances)
        total += float(target.loss(teacher.draft_logits(output), loss).sum())
        first += len(target.best)
    return total / max(1, first)
