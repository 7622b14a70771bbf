from setuptools import find_packages, setup

# fluidvm/drivers is a symlink to drivers/; with this package_dir wheels, sdists and editable installs all hold it,
# and twistd finds its plugin (a package_dir entry for fluidvm.drivers alone loses the plugin after `pip install -e`).
setup(
    package_dir={"": "."},
    packages=[*find_packages(include=["fluidvm", "fluidvm.*"]), "twisted.plugins"],
)
