"""What a stranger writes, outside the repository and in one file each, works in all commands that it fits."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from b2m_fast import cli
from b2m_fast.experiments import engine
from b2m_fast.experiments import mediated_data as data
from test_mediated_experiment import Fields

pytest.importorskip("lightning_fabric")
pytest.importorskip("foolbox")
pytest.importorskip("sklearn")

FILES = {
    # ----------------------------------------------------------------------------------- data sets
    "photographs": '''
import numpy as np
from b2m_fast.data import Brain, Recording, Stimuli, dataset

@dataset("photographs", "two mice that saw forty photographs", kind="images")
def photographs(*, units: int = 10):
    """Return two recordings of the same images."""
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    ids = [f"photograph {k}" for k in range(40)]
    recordings = []
    for session in ("monday", "tuesday"):
        drive = shown.reshape(40, -1) @ rng.normal(size=(3072, units)) / 3000
        recordings.append(Recording(np.exp(drive.clip(-2, 2)), ids, session, kind="rate"))
    return Brain("two mice", recordings, [Stimuli(tuple(ids), shown)])
''',
    "trials": '''
import numpy as np
from b2m_fast.data import Brain, Recording, TimeAxis, dataset

NAMES = ("match 1", "match 2", "non-match 1", "non-match 2")

@dataset("my-trials", "four conditions", kind="trials")
def trials():
    """Return eight trials of each condition."""
    rng = np.random.default_rng(0)
    condition = np.repeat(np.arange(4), 8)
    rates = rng.gamma(2, 2, (4, 12, 10))[condition]
    time = TimeAxis(100.0, {"delay": (0.0, 1000.0)})
    recording = Recording(rng.poisson(rates), np.array(NAMES)[condition], "one", time=time)
    return Brain("mine", [recording], conditions=NAMES)
''',
    # --------------------------------------------------------------------------- tasks and labels
    "stripes": '''
import numpy as np
from b2m_fast.data import task
from b2m_fast.data.images import ImageTask

@task("stripes", "gray stripes, upright or lying", kind="images")
def stripes(*, count: int = 24):
    """Return images of 8 x 8 pixels."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(3):
        classes = np.arange(count, dtype=np.int64) % 2
        wave = np.tile(np.sin(np.arange(8.0)), (count, 8, 1))
        wave[classes == 1] = wave[classes == 1].transpose(0, 2, 1)
        parts += [(0.5 + 0.3 * wave + 0.1 * rng.random(wave.shape)).astype(np.float32), classes]
    return ImageTask("stripes", *parts, classes=2, crop=1, flip=False)
''',
    "match": '''
from b2m_fast.data import task
from b2m_fast.data.tasks import delay_match_sample

@task("my-match", "a short delay-match-sample", kind="trials")
def match(*, delay_ms: float = 500.0):
    """Return a task of two directions."""
    return delay_match_sample(directions=2, delay_ms=delay_ms)
''',
    "warmth": '''
import numpy as np
from b2m_fast.data import LabelledImages, labels

@labels("warmth", "how red an image is", kind="stimuli")
def warmth(stimuli):
    """Return the mean red of the images that the brain was shown."""
    images = np.asarray(stimuli.images[:])
    red = images[..., 0].mean(axis=(1, 2), dtype=float)
    return LabelledImages(images, ("red", "half"), values=np.stack([red, red - images.mean(axis=(1, 2, 3))], 1))
''',
    # ----------------------------------------------------------------------------------- students
    "network": """
import torch
from b2m_fast.students import student

@student("two-layers", "two layers, both compared", kind="images")
class TwoLayers(torch.nn.Module):
    def __init__(self, classes, channels, *, width: int = 3):
        super().__init__()
        self.first = torch.nn.Conv2d(channels, width, 3, padding=1)
        self.second = torch.nn.Conv2d(width, width, 3, padding=1, stride=2)
        self.head = torch.nn.Linear(width, classes)

    def taps(self, images):
        x = self.first(images).relu()
        return [x, self.second(x).relu()]

    def forward(self, images):
        return self.head(self.taps(images)[-1].mean((2, 3)))
""",
    "elman": """
import torch
from b2m_fast.students import student

@student("elman", "simple recurrent units", kind="trials")
class Elman(torch.nn.Module):
    def __init__(self, channels, classes, units, *, bias: bool = True):
        super().__init__()
        self.channels, self.classes, self.units = channels, classes, units
        self.recurrent = torch.nn.RNN(channels, units, bias=bias)
        self.output = torch.nn.Linear(units, classes)

    def forward(self, inputs, *, generator=None):
        hidden, _ = self.recurrent(inputs)
        return self.output(hidden), hidden
""",
    # --------------------------------------------------------------------------------------- arms
    "reversed": """
from dataclasses import replace
from b2m_fast.experiments.regularize import arm

@arm("reversed", "the brain's similarity of the images in reverse order")
def reversed_(teacher):
    return [replace(target, rows=target.rows[::-1].copy()) for target in teacher.mean]
""",
    "noise": """
from b2m_fast.experiments.mediated import arm

@arm("noise-map", "a map of random numbers")
def noise_map(material):
    rng = material.random(99)
    return [material.features @ rng.normal(size=w.shape) for w in material.maps()]
""",
    "half": """
from dataclasses import replace
from b2m_fast.experiments.brain2model import arm

@arm("half", "half of the brain's features")
def half(teacher, rng):
    name = "latents" if hasattr(teacher, "latents") else "responses"
    values = getattr(teacher, name)
    kept = (rng.random(values.shape[-1]) < 0.5).astype("f4")
    return replace(teacher, **{name: values * kept})
""",
}


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stranger's files."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        (folder / f"my_{name}.py").write_text(text)
    return {name: folder / f"my_{name}.py" for name in FILES}


def b2m(command: str, out: Path, **files: Path) -> dict[str, Any]:
    """Run a command and return its results; {photographs} in it stands for the stranger's file of photographs."""
    arguments = command.format(**files).split()
    assert cli.main([*arguments, "--workers", "1", "--quiet", "--out", str(out)]) == engine.OK
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def changed(file: Path, old: str, new: str) -> None:
    """Change a line of a file."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def runs(out: Path) -> dict[str, int]:
    """How many runs of each arm there are."""
    names = [path.name.partition("-seed")[0] for path in (out / "runs").iterdir()]
    return {name: names.count(name) for name in names}


REGULARIZE = (
    "regularize --brain {photographs}:photographs --task {stripes}:stripes --student {network}:TwoLayers --arms none neural "
    "{reversed}:reversed_ --width 2 --epochs 1 --batch 12 --neural-batch 8 --attack-images 2 --set pgd_steps=2 --set "
    "minimal_steps=2 --set brain_options.units=5 --seeds 0"
)


def test_regularization(mine: dict[str, Path], tmp_path: Path) -> None:
    """A brain, a task, a network and a control of one's own; a changed line makes the runs that use it again, and no others."""
    found = b2m(REGULARIZE, tmp_path, **mine)
    assert {run["arm"] for run in found["runs"]} == {"none", "neural", "reversed"}
    assert len(next(run["gamma"] for run in found["runs"] if run["arm"] == "reversed")) == 2
    assert found["settings"]["student_options"] == {"width": 2}
    assert set(found["teacher"]["recordings"]) == {"two mice-monday", "two mice-tuesday"}
    report = (tmp_path / "results.md").read_text()
    assert "| neural - reversed " in report
    assert f"--brain {mine['photographs']}:photographs" in report
    changed(mine["reversed"], "rows[::-1]", "rows[::-1][:]")
    b2m(REGULARIZE, tmp_path, **mine)
    assert runs(tmp_path) == {"none": 1, "neural": 1, "reversed": 2}
    changed(mine["stripes"], "0.3 * wave", "0.2 * wave")
    b2m(REGULARIZE, tmp_path, **mine)
    assert runs(tmp_path) == {"none": 2, "neural": 2, "reversed": 3}


@pytest.mark.parametrize("labels", ["attributes", "{warmth}:warmth"])
def test_mediated_transfer(
    labels: str, mine: dict[str, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    """A brain and a control of one's own, labels of its images and of one's own; folds as there are images."""
    monkeypatch.setattr(data, "NetworkFeatures", Fields)
    monkeypatch.setenv("B2M_CACHE", str(tmp_path / "cache"))
    command = (
        f"mediated --brain {{photographs}}:photographs --labels {labels} --arms direct brain-stacked brain-each measured "
        "{noise}:noise_map --sizes 8 20 --folds 4 --draws 2 --components 12"
    )
    found = b2m(command, tmp_path, **mine)
    arms = {"direct", "brain-stacked", "brain-monday", "brain-tuesday", "measured", "noise-map"}
    assert {run["arm"] for run in found["runs"]} == arms
    assert {run["seed"] for run in found["runs"]} == {0, 1, 2, 3}
    report = (tmp_path / "results.md").read_text()
    assert "| brain-stacked - noise-map " in report
    assert "| brain-stacked - measured " in report
    before = runs(tmp_path)
    changed(mine["noise"], "random(99)", "random(98)")
    try:
        b2m(command, tmp_path, **mine)
    finally:
        changed(mine["noise"], "random(98)", "random(99)")
    assert runs(tmp_path) == before | {"noise-map": 8}


@pytest.mark.parametrize("method", ["latent", "contrastive"])
def test_brain2model(method: str, mine: dict[str, Path], tmp_path: Path) -> None:
    """Trials, a decision task, a recurrent network and a control of one's own; and photographs for an autoencoder."""
    arms = "--arms none brain {half}:half --seeds 0 --batch 8"
    command = (
        f"brain2model {method} --brain {{trials}}:trials --student {{elman}}:Elman --task {{match}}:match --delay 1000 --units 8 "
        f"--steps 8 --every 4 --set student_options.bias=false {arms}"
    )
    found = b2m(command, tmp_path / "trials", **mine)
    losses = {run["arm"]: run["history"]["validation_loss"] for run in found["runs"]}
    assert set(losses) == {"none", "brain", "half"}
    assert losses["half"] != losses["brain"] != losses["none"]
    command = (
        f"brain2model {method} --brain {{photographs}}:photographs --task {__file__.replace('strangers', 'brain2model_experiment')}"
        f":bars --stimuli images --components 3 --units 4 --steps 4 --every 2 {arms}"
    )
    found = b2m(command, tmp_path / "frames", **mine)
    assert {run["arm"] for run in found["runs"]} == {"none", "brain", "half"}


def test_reports_need_no_files_of_the_stranger(mine: dict[str, Path], tmp_path: Path) -> None:
    """`b2m report` writes the same again where the files are gone."""
    b2m(REGULARIZE, tmp_path, **mine)
    before = (tmp_path / "results.md").read_text()
    for file in mine.values():
        file.rename(file.with_suffix(".gone"))
    try:
        assert cli.main(["report", str(tmp_path)]) == engine.OK
    finally:
        for file in mine.values():
            file.with_suffix(".gone").rename(file)
    assert (tmp_path / "results.md").read_text() == before


def test_the_examples_of_contributing_work(mine: dict[str, Path], tmp_path: Path) -> None:
    """The data set and the arm that CONTRIBUTING.md shows, with what the example leaves open filled in."""
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    blocks = [
        textwrap.dedent(block) for block in re.findall(r"(?:^(?:    .*)?\n)+", text, re.MULTILINE)
    ]
    brain, arm = (next(b for b in blocks if b.lstrip().startswith(s)) for s in ("from b2m", "@arm"))
    data = "np.random.rand(40, 5), [str(k) for k in range(40)], np.random.randint(0, 255, (40, 32, 32, 3), np.uint8)"
    filled = brain.replace("= ...", f"= {data}").replace("all_ids", "tuple(ids)")
    (tmp_path / "brain.py").write_text(f"import numpy as np\n{filled}")
    imports = (
        "import numpy as np\nfrom dataclasses import replace\nfrom b2m_fast.experiments.regularize import arm\n"
        "from b2m_fast.teachers.similarity import unit_rows\n"
    )
    (tmp_path / "arm.py").write_text(imports + arm)
    files = mine | {"photographs": tmp_path / "brain.py", "reversed": tmp_path / "arm.py"}
    command = REGULARIZE.replace(":photographs", ":two_mice").replace("reversed_", "noise")
    command = command.replace("--set brain_options.units=5 ", "")
    found = b2m(command, tmp_path / "out", **files)
    assert {run["arm"] for run in found["runs"]} == {"none", "neural", "noise"}


def test_what_is_of_another_kind_is_refused(mine: dict[str, Path], capsys: Any) -> None:
    """A stranger's trials are no images: the message says what there is."""
    command = f"regularize --brain {mine['trials']}:trials --quiet"
    assert cli.main(command.split()) == engine.USAGE
    assert (
        "is of the kind trials; this needs images: cowley-v4, synthetic" in capsys.readouterr().err
    )


def test_a_session_that_makes_no_difference_is_refused(
    mine: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    """Where all recordings are of the same images, the labelled ones are these."""
    command = f"mediated --brain {mine['photographs']}:photographs --labels attributes --session monday --quiet"
    assert cli.main([*command.split(), "--out", str(tmp_path / "out")]) == engine.USAGE
    assert "--session: all of two mice saw the same images" in capsys.readouterr().err


def test_an_arm_of_ones_own_is_a_control(tmp_path: Path, capsys: Any) -> None:
    """Another role would be lost in a report that is written without the file: it is refused."""
    file = tmp_path / "mine.py"
    file.write_text(
        FILES["half"]
        .replace('"half of the brain\'s features"', '"a third", role="tested"')
        .replace('"half"', '"third"')
    )
    command = f"brain2model latent --arms none {file}:half --quiet --out {tmp_path / 'out'}"
    assert cli.main(command.split()) == engine.USAGE
    assert "an arm of one's own is a control, not role='tested'" in capsys.readouterr().err
