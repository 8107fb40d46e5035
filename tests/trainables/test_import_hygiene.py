"""What `trainables` may import: no Ray and no Optuna anywhere but in ray_train, and no torch for a configuration."""

import subprocess
import sys


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_module_imports_without_ray_and_optuna():
    run(
        "import importlib, pkgutil, sys\n"
        "for name in ('ray', 'optuna', 'tuner'):\n"
        "    sys.modules[name] = None\n"
        "import trainables\n"
        "names = [module.name for module in pkgutil.walk_packages(trainables.__path__, 'trainables.')]\n"
        "assert len(names) > 25, names\n"
        "for name in names:\n"
        "    if name != 'trainables.ray_train':\n"
        "        importlib.import_module(name)\n"
    )


def test_a_configuration_and_its_data_are_checked_without_torch():
    run(
        "import sys\n"
        "for name in ('torch', 'torchvision', 'sklearn', 'pyarrow', 'ray', 'optuna'):\n"
        "    sys.modules[name] = None\n"
        "from trainables import config, discovery\n"
        "config.parse({}).check_data()\n"
        "for name in discovery.names('datasets'):\n"
        "    trial = config.parse({'data': {'name': name, 'root': 'nowhere'}})\n"
        "    try:\n"
        "        trial.check_data()\n"
        "    except ValueError:\n"
        "        continue\n"
        "    assert name == 'digits', name\n"
    )
