"""Small methods of different shapes, to prove the engine's seams beyond Mean Teacher. None is a published method."""

from __future__ import annotations

import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from torch import Tensor, nn

from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.trainer import nnUNetTrainerSSL
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak


class nnUNetTrainerTestTwoNetworks(nnUNetTrainerSSL):
    """Two networks, each with its optimizer and its own supervised loss; each follows the other on unlabeled patches."""

    networks = ("student", "second")
    consistency_weight: float = 0.1

    def build_method(self):
        self.second = self.register_network("second", optimizer="own", supervised=True)
        self.head = self.register_module("scale", _Scale(), optimizer="shared", clip=None)

    def unlabeled_terms(self, logits: list[Tensor], batch):
        other = batch.logits["second"][0]
        return {
            "agree": softmax_mse(self.head(logits[0]), other.detach(), self.activation),
            "agree_second": softmax_mse(other, logits[0].detach(), self.activation),
        }

    def weights(self):
        return {"agree": self.consistency_weight, "agree_second": self.consistency_weight}


class nnUNetTrainerTestKilled(nnUNetTrainerTestTwoNetworks):
    """A student, a second network and a teacher; a few steps of which every epoch ends with a checkpoint."""

    num_epochs: int = 3
    num_iterations_per_epoch: int = 2
    num_val_iterations_per_epoch: int = 1
    save_every: int = 1
    seed: int = 1

    def build_method(self):
        super().build_method()
        self.teacher = self.register_teacher(0.9)


class _Scale(nn.Module):
    """A one-parameter head, trained by the student's optimizer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, logits):
        return logits * self.scale


class nnUNetTrainerTestSecondDecoding(nnUNetTrainerSSL):
    """Unlabeled patches are decoded a second time from weaker features, and both decodings must agree."""

    consistency_weight: float = 0.5

    def build_method(self):
        self.register_second_decoding(lambda features: [0.5 * f for f in features])

    def unlabeled_terms(self, logits: list[Tensor], batch):
        return {"agree": softmax_mse(batch.perturbed[0], logits[0], self.activation)}

    def weights(self):
        return {"agree": self.consistency_weight}


class nnUNetTrainerTestMixing(nnUNetTrainerSSL):
    """Labeled and unlabeled images are mixed before the forward; in the first half of training only labeled ones are."""

    networks = ("student", "teacher")
    mix_weight: float = 0.5

    def build_method(self):
        self.teacher = self.register_teacher(0.9)

    def terms(self, batch):
        n = batch.num_labeled
        first_stage = self.progress < 0.5
        partner = batch.labeled.flip(0) if first_stage else batch.unlabeled[torch.arange(n) % batch.num_unlabeled]
        mixed = batch.labeled.clone()
        half = mixed.shape[-1] // 2
        mixed[..., half:] = partner[..., half:]
        scales = self.student(torch.cat((batch.labeled, mixed)))
        terms = {"labeled": self.supervised_loss([h[:n] for h in scales], batch.target, batch)}
        if not first_stage:
            pseudo = self.teacher(mixed)[0]
            terms["mix"] = softmax_mse(scales[0][n:], pseudo, self.activation)
        return terms

    def weights(self):
        return {"mix": 0.0 if self.progress < 0.5 else self.mix_weight}

    def inference_network(self):
        return self.teacher


class nnUNetTrainerTestShrinkingPool(nnUNetTrainerSSL):
    """After every epoch the first case leaves the unlabeled pool; a bank counts how often each case was seen."""

    entropy_weight: float = 0.1

    def build_method(self):
        self.seen = self.register_state("seen", _Counter())

    def unlabeled_views(self, intensity):
        noise = GaussianNoiseTransform(noise_variance=(0.05, 0.1), p_per_channel=1, synchronize_channels=True)
        return {"weak": [], "strong": [*intensity, noise]}

    def unlabeled_terms(self, logits, batch):
        self.seen.add(batch.unlabeled_keys)
        strong = self.student(batch.views["strong"])[0]
        return {"agree": softmax_mse(strong, logits[0].detach(), self.activation, mask=batch.inside)}

    def weights(self):
        return {"agree": self.entropy_weight}

    def after_epoch(self):
        self.set_unlabeled_cases(self._pool[1:])


class _Counter:
    def __init__(self):
        self.counts: dict[str, int] = {}

    def add(self, keys):
        for key in keys:
            self.counts[str(key)] = self.counts.get(str(key), 0) + 1

    def state_dict(self):
        return dict(self.counts)

    def load_state_dict(self, state):
        self.counts = dict(state)


class nnUNetTrainerTestWeak(nnUNetTrainerWeak):
    """Sparse labels, and the network's own hard prediction where there are none."""

    entropy_weight: float = 0.1

    def weak_terms(self, logits, batch):
        p = torch.sigmoid(logits[0].float()) if self.activation == "sigmoid" else torch.softmax(logits[0].float(), 1)
        where = batch.labeled_inside & ~self.annotated(batch.target)
        return {"entropy": (p * (1 - p) * where).sum() / where.sum().clamp(min=1)}

    def weights(self):
        return {"entropy": self.entropy_weight}
