"""The data modules of MNIST and Fashion-MNIST, which torchvision downloads and reads."""

from pathlib import Path
from typing import ClassVar

from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from spl.data.files import check_files, download_missing
from spl.data.images import ImageDataModule
from spl.data.tensors import ImageTensors


class MNIST(ImageDataModule):
    """The data module of MNIST: 60,000 + 10,000 handwritten digits, 28×28 grey; 54,000 train, 6,000 validate.

    Args:
        root: folder of the data sets; the files are in `root/MNIST/raw`.
        batch_size: training examples per step and process.
        download: whether to download missing files.

    Example:
        >>> from spl.data import MNIST
        >>> data = MNIST(root="data", batch_size=100)
        >>> data.raw.as_posix()
        'data/MNIST/raw'
    """

    mean = (0.1307,)
    std = (0.3081,)
    source: ClassVar[type[datasets.MNIST]] = datasets.MNIST
    md5: ClassVar[dict[str, str]] = {  # of the unpacked files
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    def __init__(self, root: Path = Path("data"), batch_size: int = 100, download: bool = True) -> None:
        super().__init__(batch_size)
        self.root = Path(root)
        self.raw = self.root / self.source.__name__ / "raw"
        self.download = download

    def prepare_data(self) -> None:
        """Download missing files, if that is allowed."""
        if self.download:
            download_missing(self.source.__name__, self.raw, self.md5, lambda: self.source(self.root, download=True))

    def load(self) -> tuple[ImageTensors, ImageTensors]:
        """Return training and test images [N, 1, 28, 28], after checking the MD5 of every file."""
        check_files(self.source.__name__, self.raw, self.md5)
        return self._half("train"), self._half("t10k")

    def _half(self, name: str) -> ImageTensors:
        """Read the files that were checked; torchvision would prefer files of its own, if there are any, unchecked."""
        images = read_image_file(str(self.raw / f"{name}-images-idx3-ubyte"))
        return ImageTensors(images.unsqueeze(1), read_label_file(str(self.raw / f"{name}-labels-idx1-ubyte")))


class FashionMNIST(MNIST):
    """The data module of Fashion-MNIST: 60,000 + 10,000 articles of clothing, 28×28 grey; 54,000 train, 6,000 validate.

    Args:
        root: folder of the data sets; the files are in `root/FashionMNIST/raw`.
        batch_size: training examples per step and process.
        download: whether to download missing files.

    Example:
        >>> from spl.data import FashionMNIST
        >>> data = FashionMNIST(root="data", download=False)  # prepare_data then needs the files in root
        >>> data.raw.as_posix()
        'data/FashionMNIST/raw'
    """

    mean = (0.2860,)
    std = (0.3530,)
    source = datasets.FashionMNIST
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }
