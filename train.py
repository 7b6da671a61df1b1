"""Train a network: python train.py --model se_resnet18 --data_dir data/"""

import sys

from tumorlens.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], prog="train.py"))
