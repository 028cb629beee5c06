"""The console script. If the extra `train` is not installed, it says in one line which package is missing."""

import sys


def main() -> None:
    try:
        from bfn.cli import app

        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "bfn").partition(".")[0]
        if missing in {"bfn", "bfn_kernels"} | sys.stdlib_module_names:
            raise  # installing an extra would not help
        checkout = "in the checkout, pip install --no-build-isolation '.[train]' installs it"
        sys.exit(f"error: bfn needs {missing}, which is missing; {checkout}")


if __name__ == "__main__":
    main()
