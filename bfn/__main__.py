"""The console script, which says in one line what is missing where the extra `train` is not installed."""

import sys


def main() -> None:
    try:
        from bfn.cli import app

        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "bfn").partition(".")[0]
        if missing in {"bfn", "bfn_kernels"} | sys.stdlib_module_names:
            raise  # an extra would not help
        sys.exit(f"error: bfn needs {missing}, which is not installed: pip install 'bfn-kernels[train]'")


if __name__ == "__main__":
    main()
