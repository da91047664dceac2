"""`specbound train-controller`: parse, train, print."""

from collections.abc import Sequence

from specbound_train.config import TrainConfig

from specbound.cli.parsing import parse_config


def run(argv: Sequence[str]) -> None:
    config = parse_config(TrainConfig, "train-controller", argv)
    from specbound_train.train import train_controller

    print(train_controller(config))
