"""Objectives of published methods, by name.

| preset           | source                                     | weights and temperature                              |
| ---------------- | ------------------------------------------ | ---------------------------------------------------- |
| `none`           | direct training, no teacher                |                                                      |
| `kdsnn-response` | KDSNN, CVPR 2023, 2304.05627               | a guess                                              |
| `kdsnn-feature`  | the same, read as Heo et al. 2019          | a guess: the largest that did no harm on `digits`    |
| `kdsnn`          | both: response and its `feature`           | a guess, as theirs                                   |
| `kdsnn-last`     | what others call KDSNN                     | BKDSNN's code, ImageNet                              |
| `lasnn`          | LaSNN 2023, 2304.09101                     | attention transfer's code, CIFAR-10; a guess         |
| `sakd`           | SAKD, Neural Networks 2024                 | its code, CIFAR, at its 64 channels                  |
| `bkdsnn`         | BKDSNN, ECCV 2024, 2407.09083              | its code, CIFAR-10; its `kd` term weights examples   |
| `enof`           | EnOF, NeurIPS 2024                         | a guess; it also has a ReLU as the last activation   |
| `tet`            | TET, ICLR 2022, 2202.11946                 | its code, CIFAR10-DVS                                |
| `temporal`       | temporal decoupling, ICML 2025, 2501.15925 | published, CIFAR                                     |
| `tks`            | TKS 2024, 2304.06540                       | the mean over training of its schedule, 0 to 0.7     |
| `tser`           | TSER, CVPR 2025, 2503.03144                | a guess                                              |
| `hta-kl`         | HTA-KL 2025, 2504.20445                    | a guess, and so is the term                          |
| `dist`           | DIST, NeurIPS 2022, 2205.10536             | its code, CIFAR-100                                  |
| `strong2weak`    | Strong2Weak, NeurIPS 2025, 2510.07924      | as reported by others                                |
| `esd`            | Enhanced Self-Distillation, 2510.06254     | its code, CIFAR                                      |
| `seal`           | SeAl-KD, 2605.14252                        | its code, CIFAR                                      |
| `ckdsnn`         | CKDSNN, AAAI 2026, 2511.06902              | its code, CIFAR                                      |

Scale. What a code averages over the map or the channels is a sum here, or relative to one, with the weight it has on
that code's own maps and channels, so that neither the size of the images nor the width of the network changes it:

    lasnn    1000 mean_hw (.)^2 on maps of 32x32, 16x16, 8x8 is 1000/1024 sum_hw (.)^2, four times that, sixteen times
    sakd     100 mean (.)^2 on 64, 128, ... channels is 100/64 times 64 mean (.)^2, so that the bias of a connector's
             norm has a curvature of at most 3.1 in a network of any width, where 100 mean (.)^2 has 200 / channels
    bkdsnn   2e-3 is for the 384 means of a map, as `kdsnn-last`'s 7e-5 for 512; on whole maps BKDSNN has 7e-5
             (ImageNet) and 7e-4 (DVS)

`kdsnn-feature` sums over the map as Heo et al., whose weight is 1 on maps of 32x32 and less: it grows with the map.

Departures. Heo et al.: the margin is the mean of the negative responses in the batch instead of the expectation from
the teacher's batch-norm parameters, so only its features are needed; their student's feature is before its ReLU too,
which is `Connector(pre_activations=True)`. Connectors are 1x1 convolutions with batch norm for all methods (SAKD: 3x3),
and BKDSNN's generator has no biases; its weight is that of its Spikingformer. What BKDSNN calls LaSNN is a sum of
squared distances. SAKD's code gives its KL the weight 0; its paper initialises the student from its teacher, its code
for CIFAR does not, and its code for ImageNet has the weight 0.01. TET: phi is 1, whatever the threshold is. Temporal
decoupling's code has the mean of the correct steps as the target of `steps`, as `terms.Sharing`. TKS's code has a
gradient of about ten times ours (`losses.temporal_sharing`). TSER, as others have coded it, softens its cross-entropy
too. Enhanced Self-Distillation divides its whole loss by T, has rate-based backpropagation (`snnkd_jax.models.rate`),
and for ImageNet the weight 0.7 of the cross-entropies of its branches. SeAl-KD has the same weights everywhere. CKDSNN
draws noise anew for every step of training. Code was available of BKDSNN, attention transfer, SAKD, TET, TKS, DIST,
temporal decoupling, Enhanced Self-Distillation, SeAl-KD and CKDSNN.
"""

from snnkd_jax.distill import terms
from snnkd_jax.distill.connector import Connector
from snnkd_jax.distill.objective import Objective, Term


def _objective(*guidance: Term, ce: float = 1.0, per_step: bool = False) -> Objective:
    return Objective((Term("ce", terms.CrossEntropy(per_step), ce), *guidance))


_MARGIN = Term("feature", terms.Margin(), 0.03)
_RESPONSE = Term("kd", terms.KL(), 0.5)

PRESETS: dict[str, Objective] = {
    "none": _objective(),
    "kdsnn-response": _objective(_RESPONSE, ce=0.5),
    "kdsnn-feature": _objective(_MARGIN),
    "kdsnn": _objective(_RESPONSE, _MARGIN, ce=0.5),
    "kdsnn-last": _objective(Term("feature", terms.LastStage(), 7e-5)),
    "lasnn": _objective(Term("feature", terms.Attention(), 1000 / 32**2)),
    "sakd": _objective(Term("feature", terms.StageMeans(), 100 / 64)),
    "bkdsnn": _objective(
        Term("kd", terms.KL(2.0), 1.0),
        Term("feature", terms.LastStage(), 2e-3, connector=Connector(last=True, generator=True, pool=True)),
    ),
    "enof": _objective(Term("feature", terms.Classifier(), 1.0)),
    "tet": _objective(Term("steps", terms.Deviation(), 0.001), ce=0.999, per_step=True),
    "temporal": _objective(
        Term("steps", terms.Ensemble(3.0), 0.5), Term("kd", terms.KL(3.0, per_step=True), 0.2), per_step=True
    ),
    "tks": _objective(Term("steps", terms.Sharing(3.0), 0.35), ce=0.65),
    "tser": _objective(
        Term("steps", terms.Entropy(), 0.1), Term("kd", terms.KL(per_step=True), 0.5), ce=0.5, per_step=True
    ),
    "hta-kl": _objective(Term("kd", terms.HeadTail(), 1.0)),
    "dist": _objective(Term("kd", terms.Dist(), 2.0)),
    "strong2weak": _objective(Term("steps", terms.StrongToWeak(2.0), 1.0)),
    "esd": _objective(Term("steps", terms.SelfDistillation(3.0), 1.0)),
    "seal": _objective(
        Term("steps", terms.SimilarSteps(3.0), 0.15), Term("kd", terms.ErrorAware(3.0), 0.6), per_step=True
    ),
    "ckdsnn": _objective(Term("kd", terms.NoiseSmoothed(2.0), 1.0), Term("feature", terms.Saliency(2.0), 1.0)),
}


def logit_presets() -> str:
    """Lists the presets that read only a teacher's logits, as "a, b or c"."""
    *names, last = [name for name, x in PRESETS.items() if x.needs == {"teacher"}]
    return f"{', '.join(names)} or {last}"
