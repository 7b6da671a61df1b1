"""Score a checkpoint: python evaluate.py --checkpoint model/best_model.pt"""

import sys

from tumorlens.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]], prog="evaluate.py"))
