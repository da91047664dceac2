"""Training of the demonstration model at toy size: resumable, seeded, with a loss at the exits."""

from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from specbound_train.demo import pretrain as module
from specbound_train.demo.pretrain import EarlyExitPretraining, PretrainConfig, lr_scale, pretrain
from specbound_train.demo.tokens import OWN, Batch, MixedBatches

CONFIG = PretrainConfig(
    num_layers=4,
    hidden_size=20,
    intermediate_size=16,
    vocab_size=32,
    sequence_length=12,
    batch_size=4,
    num_tokens=12 * 4 * 8,
    num_warmup_steps=2,
    exit_layers=(1, 2),
    validate_every=4,
    checkpoint_every=4,
)


def streams(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {kind: rng.integers(0, 32, 400).astype(np.uint16) for kind in ("prose", "math", "code")}


class Killed(RuntimeError):
    """Raised on purpose."""


def test_a_killed_run_goes_on_at_its_checkpoint_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(CONFIG, streams(0), streams(1), tmp_path / "whole", precision="32-true")

    class Kill(module.Pace):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
            if trainer.global_step // 2 == 6:
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "Pace", Kill)
        with pytest.raises(Killed):
            pretrain(CONFIG, streams(0), streams(1), tmp_path / "parts", precision="32-true")
    resumed = pretrain(CONFIG, streams(0), streams(1), tmp_path / "parts", precision="32-true")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)
    curve = (tmp_path / "whole" / "curve" / "version_0" / "metrics.csv").read_text()
    assert "held_out_layer_2" in curve and "held_out_code" in curve


def test_batches_depend_on_seed_and_step_only_and_ranks_share_them_out() -> None:
    def batches(**settings: int) -> MixedBatches:
        return MixedBatches(streams(0), {"prose": 1, "math": 1, "code": 2}, 4, 12, seed=3, **settings)

    late = next(iter(batches(first_step=5))).token_ids
    assert torch.equal(late, batches().batch(5).token_ids) and not torch.equal(late, batches().batch(4).token_ids)
    halves = [batches(rank=rank, world_size=2).batch(5).token_ids for rank in (0, 1)]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), late)


def test_rows_of_the_models_own_text_are_marked() -> None:
    both = streams(0) | {OWN: np.full(400, 31, dtype=np.uint16)}
    batch = MixedBatches(both, {"prose": 1, OWN: 1}, 16, 12, seed=3).batch(0)
    assert torch.equal(batch.is_own, (batch.token_ids == 31).all(1)) and 0 < batch.is_own.sum() < 16


def rows(number: int, num_own: int = 0) -> Batch:
    return Batch(torch.randint(0, 32, (number, 13)), torch.arange(number) < num_own)


def test_the_exit_loss_trains_the_shared_head_at_the_drawn_layers() -> None:
    trained = EarlyExitPretraining(CONFIG, {})
    loss, exit_loss = trained.losses(rows(2), step=0)
    exit_loss.backward()
    touched = [layer.mlp.up_proj.weight.grad is not None for layer in trained.model.model.layers]
    assert touched in ([True, False, False, False], [True, True, False, False])
    assert loss.item() > 0 and exit_loss.item() > 0

    trained = EarlyExitPretraining(replace(CONFIG, exits_per_step=2), {})
    trained.losses(rows(2), step=0)[1].backward()
    assert trained.model.model.layers[1].mlp.up_proj.weight.grad is not None
    assert not any(layer._forward_pre_hooks for layer in trained.model.model.layers)


def test_own_text_teaches_the_exits_to_imitate_and_the_full_model_nothing() -> None:
    trained = EarlyExitPretraining(CONFIG, {})
    own = rows(2, num_own=2)
    loss, exit_loss = trained.losses(own, step=0)
    assert loss.item() == 0 and exit_loss.item() > 0
    mixed = Batch(torch.cat([own.token_ids, rows(2).token_ids]), torch.tensor([True, True, False, False]))
    others = Batch(mixed.token_ids[2:], mixed.is_own[2:])
    torch.testing.assert_close(trained.losses(mixed, step=0)[0], trained.losses(others, step=0)[0])


def test_a_round_begins_with_the_weights_it_is_given(tmp_path: Path) -> None:
    initial = EarlyExitPretraining(replace(CONFIG, seed=7), {}).model
    still = replace(CONFIG, muon_lr=0.0, adam_lr=0.0, num_tokens=12 * 4, validate_every=1)
    model = pretrain(still, streams(0), streams(1), tmp_path, precision="32-true", initial=initial)
    for name, value in initial.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_learning_rate_warms_up_stays_and_decays_to_zero() -> None:
    scales = [lr_scale(step, CONFIG) for step in range(8)]
    assert scales == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
