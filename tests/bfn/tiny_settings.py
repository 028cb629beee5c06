"""Settings that make a network and its training small."""

TINY = [
    "network.width=16",
    "network.depth=1",
    "network.heads=2",
    "network.dropout=0.1",
    "train.batch_size=32",
    "train.learning_rate=0.003",
    "train.warmup_steps=2",
    "train.ema_decay=0.9",
    "evaluate.repeats=4",
    "sample.n_steps=5",
    "sample.count=4",
]
