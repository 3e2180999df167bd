"""`python -m attention`: the mechanisms, their formulas, options and kernels."""

import argparse

from attention.capabilities import capabilities


def main() -> None:
    """Print the capability table."""
    parser = argparse.ArgumentParser(prog="python -m attention", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["list"], default="list", help="list every mechanism")
    parser.parse_args()
    for entry in capabilities():
        options = ", ".join(f"{name}={value!r}" for name, value in entry.options.items()) or "none"
        print(f"{entry.name}")
        print(f"  formula  {entry.formula}")
        print(f"  paper    {entry.paper}")
        print(f"  form     {entry.form}; kernels: {', '.join(entry.kernels)}")
        print(f"  options  {options}; learned per head: {', '.join(entry.learned) or 'none'}")


if __name__ == "__main__":
    main()
