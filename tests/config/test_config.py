"""A configuration is read, overridden and refused in one sentence."""

import inspect
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar import losses
from nearfar.config import Augment, Config
from nearfar.config.fit import fit
from nearfar.errors import ConfigError, NearfarError


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    file = tmp_path / "birds.toml"
    file.write_text('[data]\nsource = "objects"\n[loss]\nname = "multi_similarity"\nbeta = 40.0\n')
    return file


def write(folder: Path, text: str) -> Path:
    file = folder / "birds.toml"
    file.write_text(text)
    return file


def test_file_and_overrides(birds: Path) -> None:
    config = Config.load(
        birds, ["loss.beta=30", "train.epochs=5", "model.backbone=resnet50", "train.device=cpu"]
    )
    assert config.loss.settings == {"beta": 30}
    assert (config.train.epochs, config.model.backbone) == (5, "resnet50")
    assert config.optimizer == Config().optimizer


def test_override_without_value_takes_the_default_again(birds: Path) -> None:
    assert Config.load(birds, ["loss.beta="]).loss.settings == {}


def test_written_configuration_reads_back_equal(tmp_path: Path) -> None:
    overrides = [
        "loss.beta=3.5",
        'loss.mining={name = "semi_hard", margin = 0.3}',
        'data.memory_limit="500MB"',
    ]
    config = Config.load(
        "objects", [*overrides, "augment.scale=[0.2, 0.9]", "data.workers=2", "model.size=64"]
    )
    assert config.data.memory_limit == 500_000_000
    assert Config.load(write(tmp_path, config.to_toml())) == config


def test_settings_in_steps_read_back_and_are_not_written_when_absent(tmp_path: Path) -> None:
    text = "[optimizer]\nschedule = 'multistep'\nstep_values = [10, 20]\nwarmup_epochs = 50.0\n[train]\nsteps = 30\n"
    config = Config.load(write(tmp_path, text))
    assert (config.train.steps, config.optimizer.step_values) == (30, (10, 20))
    assert Config.load(write(tmp_path, config.to_toml())) == config
    # A run that was begun before these settings existed is resumed with them absent.
    assert not {"step_size", "step_values", "power"} & set(Config().to_dict()["optimizer"])
    assert "steps" not in Config().to_dict()["train"]


def test_whole_sizes_are_written_as_people_do() -> None:
    assert Config().to_dict()["data"]["memory_limit"] == "1GiB"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[loss]\nbata = 3.0", "birds.toml: unknown key 'loss.bata'. Did you mean 'loss.beta'?"),
        ("[trian]\nepochs = 3", "birds.toml: unknown key 'trian'. Did you mean 'train'?"),
        ("[train]\nepoch = 3", "birds.toml: unknown key 'train.epoch'. Did you mean 'train.epochs'?"),
        ("[train]\nlr = 0.1", "birds.toml: unknown key 'train.lr'. Did you mean 'optimizer.lr'?"),
        ("loss = 'triplet'", "birds.toml: loss must be a table; got 'triplet'."),
        (
            "[train]\nepochs = 'twenty'",
            "birds.toml: train.epochs must be a whole number of 1 or more; got 'twenty'.",
        ),
        ("[train]\nepochs = 0", "birds.toml: train.epochs must be a whole number of 1 or more; got 0."),
        ("[train]\nepochs = true", "birds.toml: train.epochs must be a whole number of 1 or more; got true."),
        ("[model]\npretrained = 1", "birds.toml: model.pretrained must be true or false; got 1."),
        (
            "[model]\npooling = 'gm'",
            "birds.toml: model.pooling must be 'avg', 'max', 'avg+max' or 'gem'; got 'gm'.",
        ),
        (
            "[data]\nworkers = 'many'",
            "birds.toml: data.workers must be a whole number of 0 or more or 'auto'; got 'many'.",
        ),
        (
            "[data]\nmemory_limit = 'lots'",
            "birds.toml: data.memory_limit must be a size such as \"2GiB\"; got 'lots'.",
        ),
        (
            "[augment]\nscale = [0.5]",
            "birds.toml: augment.scale must be 2 numbers in brackets, such as [0.5, 1.0]; got (0.5,).",
        ),
        (
            "[augment]\nscale = [0.5, 0.1]",
            "birds.toml: augment.scale must be [low, high] with 0 < low <= high <= 1; got [0.5, 0.1].",
        ),
        (
            "[batch]\nimages_per_class = 1",
            "birds.toml: batch.images_per_class = 1 gives no positive pair; set it to 2 or more.",
        ),
        (
            "[batch]\nclasses_per_batch = 1",
            "birds.toml: batch.classes_per_batch = 1 gives no negative pair; set it to 2 or more.",
        ),
        ("[batch]\nchunk = -8", "birds.toml: batch.chunk must be a whole number of 0 or more; got -8."),
        ("[memory]\nsize = -1", "birds.toml: memory.size must be a whole number of 0 or more; got -1."),
        (
            "[batch]\nsampler = 'balaced'",
            "birds.toml: batch.sampler = 'balaced' does not exist. Did you mean 'balanced'?",
        ),
        (
            "[loss]\nadd = [{ name = 'l2_norm', wieght = 0.1 }]",
            "birds.toml: unknown key 'loss.add.0.wieght'. Did you mean 'loss.add.0.weight'?",
        ),
        (
            "[optimizer]\nhead_only_epochs = 20",
            "birds.toml: optimizer.head_only_epochs = 20 leaves nothing of train.epochs = 20; set it lower.",
        ),
        (
            "[optimizer]\nhead_only_epochs = 1\n[model]\nhead = 'none'",
            "birds.toml: optimizer.head_only_epochs needs a head to train; set it to 0 or model.head to 'linear'.",
        ),
        (
            "[optimizer]\nschedule = 'multistep'",
            "birds.toml: optimizer.step_values must be the steps at which 'multistep' falls, ascending, such as [1000, 2000]; got [].",
        ),
        (
            "[optimizer]\nschedule = 'multistep'\nstep_values = [5, 5]",
            "birds.toml: optimizer.step_values must be the steps at which 'multistep' falls, ascending, such as [1000, 2000]; got [5, 5].",
        ),
        (
            "[optimizer]\nschedule = 'multistep'\nstep_values = [0.5]",
            "birds.toml: optimizer.step_values must be whole numbers in brackets, such as [1000, 2000]; got 0.5.",
        ),
        (
            "[optimizer]\nstep_values = 5",
            "birds.toml: optimizer.step_values must be whole numbers in brackets, such as [1000, 2000]; got 5.",
        ),
        (
            "[optimizer]\nstep_size = 0",
            "birds.toml: optimizer.step_size must be a whole number of 1 or more; got 0.",
        ),
        (
            "[optimizer]\nstep_size = 5",
            "birds.toml: optimizer.step_size is for schedule 'step', not for 'cosine'; leave it out or set optimizer.schedule.",
        ),
        (
            "[optimizer]\nschedule = 'exp'\npower = 2.0",
            "birds.toml: optimizer.power is for schedule 'inv' or 'poly', not for 'exp'; leave it out or set optimizer.schedule.",
        ),
        ("[train]\nsteps = 0", "birds.toml: train.steps must be a whole number of 1 or more; got 0."),
        (
            "[train]\ndevice = 'gpu'",
            "birds.toml: train.device must be 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'; got 'gpu'.",
        ),
        (
            "[loss]\nname = 'multi_similarty'",
            "birds.toml: loss.name = 'multi_similarty' does not exist. Did you mean 'multi_similarity'?",
        ),
        ("[loss]\nbeta = 'big'", "birds.toml: loss.beta must be a number; got 'big'."),
        (
            "[loss]\nmining = 'semihard'",
            "birds.toml: loss.mining = 'semihard' does not exist. Did you mean 'semi_hard'?",
        ),
        (
            "[loss.mining]\nname = 'semi_hard'\nmargn = 0.1",
            "birds.toml: unknown key 'loss.mining.margn'. Did you mean 'loss.mining.margin'?",
        ),
        (
            "[loss.mining]\nmargin = 0.1",
            'birds.toml: loss.mining needs a name, as in { name = "multi_similarity", epsilon = 0.1 }.',
        ),
    ],
)
def test_faults_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(write(tmp_path, text))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.bata=3", "unknown key 'loss.bata'. Did you mean 'loss.beta'?"),
        ("epochs=5", "unknown key 'epochs'. Did you mean 'train.epochs'?"),
        ("train.epochs=0", "train.epochs must be a whole number of 1 or more; got 0."),
        ("train.epochs", "'train.epochs' is not an override; write key=value, as in loss.beta=40."),
        ("train.epochs.more=1", "train.epochs is not a table, so train.epochs.more has no place."),
    ],
)
def test_faults_in_an_override_do_not_blame_the_file(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(write(tmp_path, "[train]\nepochs = 3"), [override])
    assert str(caught.value).removeprefix("birds.toml: " if "table" in message else "") == message


def test_a_warm_up_keeps_its_share_of_a_run_that_is_made_short(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, "[optimizer]\nwarmup_epochs = 20\n[train]\nepochs = 500")
    assert Config.load(file, ["train.epochs=5"]).optimizer.warmup_epochs == 0.2
    assert "optimizer.warmup_epochs is 20 of 500 epochs in the file, so it is 0.2 of 5 now." in caplog.text
    assert Config.load(file, ["train.epochs=100"]).optimizer.warmup_epochs == 20
    with pytest.raises(
        ConfigError, match=r"optimizer\.warmup_epochs = 20\.0 leaves nothing of train\.epochs = 5"
    ):
        Config.load(file, ["train.epochs=5", "optimizer.warmup_epochs=20"])
    with as_file(files("nearfar.cli") / "demo.toml") as demo:
        for epochs in (2, 5, 20):
            Config.load(demo, [f"train.epochs={epochs}"])


def test_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^birds.toml: this is not TOML: .*line 1"):
        Config.load(write(tmp_path, "epochs 3"))


def test_missing_sources(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"birds\.toml: there is no such file\."):
        Config.load(tmp_path / "birds.toml")
    with pytest.raises(ConfigError, match=r"'object' is no .* Did you mean 'objects'\? Packs: .*objects"):
        Config.load("object")
    with pytest.raises(ConfigError, match=r"there is no such file or folder"):
        Config.load(str(tmp_path / "birds"))


def test_a_path_in_a_file_counts_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "pictures").mkdir(parents=True)
    file = write(tmp_path / "runs", '[data]\nsource = "pictures"')
    monkeypatch.chdir(tmp_path)
    assert Config.load(file).data.source == str(tmp_path / "runs" / "pictures")


def test_defaults_fit_the_machine_and_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in range(12):
        (tmp_path / f"class{label}").mkdir()
        for image in range(3):
            pixels = np.full((8, 8, 3), 10 * label + image, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"class{label}" / f"{image}.png")
    monkeypatch.setattr("nearfar.config.fit.has_accelerator", lambda: False)
    config = Config.load(str(tmp_path))
    assert config.model.backbone == "nearfar/small"
    # 12 classes: 6 to train on, of which 2 are held out.
    assert config.batch.classes_per_batch == 4
    assert Config.load(str(tmp_path), ["batch.classes_per_batch=3"]).batch.classes_per_batch == 3
    assert Config.load(str(tmp_path), ["model.backbone=resnet50"]).optimizer.lr == Config().optimizer.lr
    monkeypatch.setattr("nearfar.config.fit.has_accelerator", lambda: True)
    assert Config.load(str(tmp_path)).model.backbone == Config().model.backbone


def test_fitting_keeps_what_was_given() -> None:
    given = {"data": {"source": "objects"}, "model": {"backbone": "nearfar/small"}, "optimizer": {"lr": 1.0}}
    assert fit(given)["optimizer"]["lr"] == 1.0


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 3  # type: ignore[misc]


def test_augment_section_has_the_settings_of_the_augmentation() -> None:
    from nearfar.data import Augment as Augmentation

    settings = set(inspect.signature(Augmentation).parameters) - {"size"}
    assert set(Augment.model_fields) == settings


def test_every_loss_can_be_configured_with_its_own_defaults(tmp_path: Path) -> None:
    for name in losses.names():
        parameters = losses.settings(name).parameters.values()
        given = {p.name: p.default for p in parameters if isinstance(p.default, bool | int | float)}
        lines = [f"{key} = {str(value).lower()}" for key, value in given.items()]
        config = Config.load(write(tmp_path, "\n".join(["[loss]", f"name = '{name}'", *lines])))
        assert config.loss.settings == given


def test_a_mistake_is_found_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from nearfar.config import Config; from nearfar.errors import ConfigError\n"
        f"try: Config.load({str(write(tmp_path, '[train]' + chr(10) + 'epoch = 3'))!r})\n"
        "except ConfigError as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "birds.toml: unknown key 'train.epoch'. Did you mean 'train.epochs'?",
        "False",
    ]


def test_config_error_is_a_value_error() -> None:
    assert issubclass(ConfigError, NearfarError)
    assert issubclass(ConfigError, ValueError)
