"""See where a network looks: python gradcam.py --checkpoint model/best_model.pt --class glioma"""

import sys

from tumorlens.cli import main

if __name__ == "__main__":
    sys.exit(main(["gradcam", *sys.argv[1:]], prog="gradcam.py"))
