"""The start-up file by which nnU-Net finds the trainers without any configuration. Everything else is in pyproject.toml.

A line of a `.pth` file in site-packages that begins with `import` is executed whenever Python starts. Ours adds the folder
`nnunet_ssl/discovery/nnunet_ext` to the environment variable `nnUNet_extTrainer`. It is part of the wheel, so uninstalling
removes it.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

STARTUP_FILE = "nnunet_ssl_autodiscovery.pth"

# Runs in a namespace of its own that holds `folder`. Child processes inherit the variable: nothing is added twice.
STARTUP_CODE = """
if os.environ.get('nnUNet_ssl_no_autodiscovery', '').lower() not in ('1', 'true', 't'):
    paths = os.environ.get('nnUNet_extTrainer', '')
    if folder not in paths.split(os.pathsep):
        os.environ['nnUNet_extTrainer'] = paths + os.pathsep + folder if paths else folder
"""


def startup_line(folder_expression: str) -> str:
    """The one physical line of the file. `folder_expression` is Python; ASCII, since the encoding read differs by platform."""
    line = f"import os; exec({STARTUP_CODE!a}, {{'os': os, 'folder': {folder_expression}}})\n"
    assert line.isascii(), line
    return line


class BuildPy(build_py):
    """Puts the start-up file beside the package; `sitedir` is a variable of the function of `site` that executes the line."""

    def _startup_file(self) -> Path:
        return Path(self.build_lib, STARTUP_FILE)

    def run(self):
        super().run()
        if not self.editable_mode:
            self._startup_file().write_text(
                startup_line("os.path.join(sitedir, 'nnunet_ssl', 'discovery', 'nnunet_ext')"), encoding="ascii"
            )

    def get_outputs(self, include_bytecode=True):
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, str(self._startup_file())]


class EditableWheel(editable_wheel):
    """The same for `pip install -e`: the folder is the one of this source tree."""

    def _run_build_commands(self, dist_name, unpacked_wheel, build_lib, tmp_dir):
        built = super()._run_build_commands(dist_name, unpacked_wheel, build_lib, tmp_dir)
        folder = Path(self.project_dir).resolve() / "nnunet_ssl" / "discovery" / "nnunet_ext"
        Path(unpacked_wheel, STARTUP_FILE).write_text(startup_line(ascii(str(folder))), encoding="ascii")
        return built


setup(cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel})
