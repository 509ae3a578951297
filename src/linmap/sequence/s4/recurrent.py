"""`GRUClassifier`: a recurrent network in the place of the state spaces, to compare them with."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from linmap.sequence.s4.estimators import S4Classifier
from linmap.training import private


class RecurrentModel(nn.Module):
    """Linear, GRU, mean over the samples, Linear."""

    def __init__(self, d_in: int, d_out: int, n_layers: int, d_model: int, bidirectional: bool) -> None:
        super().__init__()
        width = d_model // (1 + bidirectional)
        self.encoder = nn.Linear(d_in, d_model)
        self.gru = nn.GRU(d_model, width, n_layers, batch_first=True, bidirectional=bidirectional)
        self.decoder = nn.Linear(d_model, d_out)

    def forward(self, x: Tensor, lengths: Tensor | None = None, rate: float = 1.0) -> Tensor:
        x = self.encoder(x)
        if lengths is None:
            return self.decoder(self.gru(x)[0].mean(1))
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.decoder(y.sum(1) / lengths.unsqueeze(-1))

    def optim_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": weight_decay}]


class GRUClassifier(S4Classifier):
    """A GRU in the place of the state spaces, one layer for two of theirs; all else is as there."""

    def build(self) -> Any:
        """The untrained model, drawn with `random_state` and nothing else."""
        layers = max(1, self.n_layers // 2)
        with private(self.random_state):
            return RecurrentModel(self.n_features_in_, len(self.classes_), layers, self.d_model, self.bidirectional)
